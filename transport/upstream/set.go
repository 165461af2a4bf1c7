package upstream

import (
	"net/http"
	"slices"
	"sync"

	"github.com/rs/zerolog"
)

// Set holds the transports of one process, by the names of the upstreams. Its
// methods may be called from many goroutines.
type Set struct {
	log  zerolog.Logger
	wrap func(http.RoundTripper) http.RoundTripper
	mu   sync.Mutex
	ways []*Transport
}

// NewSet makes an empty set. wrap is applied to the connections of each
// transport, for example to add headers to every try. nil = nothing is added.
func NewSet(log zerolog.Logger, wrap func(http.RoundTripper) http.RoundTripper) *Set {
	return &Set{log: log, wrap: wrap}
}

// To returns the transport for the upstream of that name. The first call makes
// it.
//
// On the transport for [Login] every request may be repeated, and its breaker
// opens after two failures in a row, since at most one request for the bot's own
// token is in flight at any time.
func (s *Set) To(name string) *Transport {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.ways, func(t *Transport) bool { return t.cfg.Name == name }); i >= 0 {
		return s.ways[i]
	}
	cfg := Config{Name: name, Next: Pooled(), Log: s.log}
	if s.wrap != nil {
		cfg.Next = s.wrap(cfg.Next)
	}
	if name == Login {
		cfg.Repeatable, cfg.Failures = Always, 2
	}
	t := New(cfg)
	s.ways = append(s.ways, t)
	return t
}

// Circuits lists the breakers of all transports.
func (s *Set) Circuits() []Circuit {
	s.mu.Lock()
	ways := slices.Clone(s.ways)
	s.mu.Unlock()
	var all []Circuit
	for _, t := range ways {
		all = append(all, t.Circuits()...)
	}
	return all
}
