package upstream

import (
	"net/http"
	"slices"
	"sync"

	"github.com/rs/zerolog"
)

// Set are the ways out of one process, by the names of the upstreams. Its methods
// may be called from many goroutines.
type Set struct {
	log  zerolog.Logger
	wrap func(http.RoundTripper) http.RoundTripper
	mu   sync.Mutex
	ways []*Transport
}

// NewSet makes an empty set. wrap stands between each transport and its
// connections, as one that adds headers to every try; nil = nothing does.
func NewSet(log zerolog.Logger, wrap func(http.RoundTripper) http.RoundTripper) *Set {
	return &Set{log: log, wrap: wrap}
}

// To is the way to the upstream of that name, which is made when it is first
// asked for. On the way to [Login] every request may be repeated, and two without
// an answer open the breaker: of those for the bot's own token one at a time is
// under way.
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

// Circuits lists the breakers of every way.
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
