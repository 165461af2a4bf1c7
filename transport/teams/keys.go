package teams

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/rs/zerolog"
)

// Times of the fetches of keys (docs/protocol.md §1, rule 6).
const (
	keysLife       = 24 * time.Hour // keys older than this are fetched again, but serve until that succeeds
	unknownKeyWait = time.Hour      // between two fetches for the sake of an unknown key
	keysTimeout    = 5 * time.Second
	retryFirst     = time.Second // after a failed fetch, doubled each time
	retryEmpty     = 15 * time.Second
	retryStale     = 5 * time.Minute
)

const (
	maxKeys      = 256
	maxKeySetLen = 1 << 20
	// Weaker keys prove nothing. With longer ones a check would take
	// milliseconds.
	minModulus = 2048
	maxModulus = 8192
)

var (
	errNoKeys     = errors.New("signing keys were never fetched")
	errUnknownKey = errors.New("no such key")
)

// signingKey is a key of an issuer.
type signingKey struct {
	public       *rsa.PublicKey
	endorsements []string // channels for which it may sign; none = any
}

// keySource keeps the keys of one issuer, which its OpenID metadata locates.
type keySource struct {
	metadata string
	http     *http.Client
	now      func() time.Time
	log      zerolog.Logger

	mu       sync.Mutex
	keys     map[string]*signingKey // nil: never fetched
	fetched  time.Time              // when keys were last fetched
	unknown  time.Time              // when an unknown key last caused a fetch
	retryAt  time.Time              // no fetch before this time
	failures int                    // in a row
	running  *keyFetch
}

// keyFetch is a fetch that callers wait for. err is set before done is closed.
type keyFetch struct {
	done chan struct{}
	err  error
}

// newKeySource checks that the metadata URL can be trusted.
func newKeySource(metadata string, client *http.Client, now func() time.Time, log zerolog.Logger) (*keySource, error) {
	if err := trustworthy(metadata); err != nil {
		return nil, fmt.Errorf("teams: OpenID metadata URL: %w", err)
	}
	if client == nil {
		client = &http.Client{Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: keysTimeout}).DialContext,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: keysTimeout,
			IdleConnTimeout:     time.Minute,
		}}
	}
	own := *client
	// A redirect could lead to somebody else's keys.
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &keySource{metadata: metadata, http: &own, now: now, log: log}, nil
}

// trustworthy requires https, except on loopback. Whoever could change the keys
// on their way could sign any token.
func trustworthy(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "":
		return errors.New("is not an absolute URL")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname(), net.ParseIP(u.Hostname())):
		return nil
	default:
		return errors.New("needs https")
	}
}

// key returns the key with that id. Its errors are errNoKeys and errUnknownKey.
// It waits until ctx ends, and at most for keysTimeout.
func (s *keySource) key(ctx context.Context, id string) (*signingKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		if err := s.firstFetch(ctx); err != nil {
			return nil, err
		}
	}
	now := s.now()
	if k := s.keys[id]; k != nil {
		if now.Sub(s.fetched) >= keysLife && !now.Before(s.retryAt) {
			s.start(ctx)
		}
		return k, nil
	}
	if s.running == nil {
		if now.Sub(s.unknown) < unknownKeyWait {
			return nil, errUnknownKey
		}
		s.unknown = now
		s.start(ctx)
	}
	_ = s.wait(ctx) // a failed fetch means that the key stays unknown
	if k := s.keys[id]; k != nil {
		return k, nil
	}
	return nil, errUnknownKey
}

// firstFetch waits for the first keys. The caller holds the lock. It is released
// during the wait.
func (s *keySource) firstFetch(ctx context.Context) error {
	if s.running == nil {
		if s.now().Before(s.retryAt) {
			return errNoKeys
		}
		s.start(ctx)
	}
	if err := s.wait(ctx); err != nil && s.keys == nil {
		return fmt.Errorf("%w: %w", errNoKeys, err)
	}
	return nil
}

// ready returns nil if there are keys. If there are none, it tries to fetch them.
func (s *keySource) ready(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys != nil {
		return nil
	}
	return s.firstFetch(ctx)
}

// wait waits for the running fetch. It releases the lock meanwhile.
func (s *keySource) wait(ctx context.Context) error {
	running := s.running
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-running.done:
		return running.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start begins a fetch unless one is running. The fetch serves all callers who
// wait for it, so it does not end when one of them gives up. It ends at its
// timeout.
func (s *keySource) start(ctx context.Context) {
	if s.running != nil {
		return
	}
	s.running = &keyFetch{done: make(chan struct{})}
	go s.fetch(context.WithoutCancel(ctx), s.running)
}

func (s *keySource) fetch(ctx context.Context, f *keyFetch) {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	keys, err := s.load(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if err == nil {
		if s.failures > 0 {
			s.log.Info().Int("keys", len(keys)).Msg("signing keys can be fetched again")
		}
		s.keys, s.fetched, s.failures, s.retryAt = keys, now, 0, time.Time{}
	} else {
		if s.failures == 0 {
			s.log.Warn().Err(err).Bool("serving", s.keys != nil).Msg("signing keys cannot be fetched; the last good ones serve")
		}
		longest := retryStale
		if s.keys == nil {
			longest = retryEmpty
		}
		wait := min(retryFirst<<min(s.failures, 16), longest)
		s.retryAt = now.Add(wait/2 + rand.N(wait/2)) //nolint:gosec // jitter needs no secure randomness
		s.failures++
		f.err = err
	}
	s.running = nil
	close(f.done)
}

// load fetches metadata and keys.
func (s *keySource) load(ctx context.Context) (map[string]*signingKey, error) {
	document, err := s.get(ctx, s.metadata)
	if err != nil {
		return nil, fmt.Errorf("OpenID metadata: %w", err)
	}
	var metadata struct {
		KeysURL string `json:"jwks_uri"`
	}
	if json.Unmarshal(document, &metadata) != nil || metadata.KeysURL == "" {
		return nil, errors.New("OpenID metadata: no jwks_uri")
	}
	if err := trustworthy(metadata.KeysURL); err != nil {
		return nil, fmt.Errorf("OpenID metadata: jwks_uri: %w", err)
	}
	set, err := s.get(ctx, metadata.KeysURL)
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	return parseKeys(set)
}

func (s *keySource) get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySetLen))
	switch {
	case err != nil:
		return nil, withoutURL(err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return body, nil
}

// parseKeys parses a key set and leaves out keys that cannot be used. A set
// without any other key is an error.
func parseKeys(document []byte) (map[string]*signingKey, error) {
	set, err := jwk.Parse(document, jwk.WithIgnoreParseError(true), jwk.WithMaxKeys(maxKeys))
	if err != nil {
		return nil, errors.New("signing keys: malformed")
	}
	keys := make(map[string]*signingKey, set.Len())
	for i := range set.Len() {
		key, _ := set.Key(i)
		if id, parsed := parseKey(key); parsed != nil && keys[id] == nil {
			keys[id] = parsed
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("signing keys: none for RS256")
	}
	return keys, nil
}

func parseKey(key jwk.Key) (string, *signingKey) {
	id, _ := key.KeyID()
	use, hasUse := key.KeyUsage()
	algorithm, hasAlgorithm := key.Algorithm()
	switch {
	case id == "", key.KeyType() != jwa.RSA(), hasUse && use != "sig",
		hasAlgorithm && algorithm.String() != jwa.RS256().String():
		return "", nil
	}
	var public rsa.PublicKey
	if jwk.Export(key, &public) != nil || public.N.BitLen() < minModulus || public.N.BitLen() > maxModulus {
		return "", nil
	}
	endorsements, ok := parseEndorsements(key)
	if !ok {
		return "", nil
	}
	return id, &signingKey{public: &public, endorsements: endorsements}
}

// parseEndorsements reads a member that only the connector's keys have. It
// returns false if the member is malformed: such a key must not be used.
func parseEndorsements(key jwk.Key) ([]string, bool) {
	b, err := json.Marshal(key)
	if err != nil {
		return nil, false
	}
	var wire struct {
		Endorsements []string `json:"endorsements"`
	}
	if json.Unmarshal(b, &wire) != nil {
		return nil, false
	}
	return wire.Endorsements, true
}
