package teams

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// ErrServiceURL means that the bot must not send its bearer token to a service URL.
var ErrServiceURL = errors.New("teams: service URL is not allowed")

// ServiceURLError says what is wrong with a service URL. It matches
// [ErrServiceURL].
type ServiceURLError struct {
	Host    string // "" where the URL has none that could be allowed
	Problem string
}

// Error names the host.
func (e *ServiceURLError) Error() string { return ErrServiceURL.Error() + ": " + e.Problem }

// Is matches [ErrServiceURL].
func (e *ServiceURLError) Is(target error) bool { return target == ErrServiceURL }

// builtinRules returns rules for the connector's hosts (docs/protocol.md §1),
// which need https.
func builtinRules() []hostRule {
	hosts := tokensvc.ServiceHosts()
	rules := make([]hostRule, 0, len(hosts))
	for _, host := range hosts {
		if rule, err := parseRule(host); err == nil {
			rules = append(rules, rule)
		}
	}
	return rules
}

// AllowList says which service URLs the bot talks to. Its methods may be used
// from many goroutines.
type AllowList struct {
	rules    []hostRule
	loopback bool
	// passed caches URLs that passed the check, each at its hash, since a bot
	// sees very few different ones.
	passed [64]atomic.Pointer[string]
}

var hashSeed = maphash.MakeSeed()

// hostRule is a parsed pattern.
type hostRule struct {
	host      string // in lower case; begins with a dot if subdomain is set
	subdomain bool   // the pattern began with "*.": it matches any name below host, but not host itself
	port      string // "" = any
	plain     bool   // http is allowed, too
}

// NewAllowList makes a list of the connector's own hosts and of hosts, each host[:port]
// with * as the leftmost label only ("*.example.com" stands for every name below
// example.com). Without a port every port is allowed. The connector's hosts need https.
// Those in hosts, and any loopback host if loopback is set, may be plain http. The
// error names each invalid pattern, such as "*", one a line.
func NewAllowList(hosts []string, loopback bool) (*AllowList, error) {
	list := &AllowList{rules: builtinRules(), loopback: loopback}
	var errs []error
	for _, pattern := range hosts {
		rule, err := parseRule(pattern)
		if err != nil {
			errs = append(errs, fmt.Errorf("teams: service host %q: %w", pattern, err))
			continue
		}
		rule.plain = true
		list.rules = append(list.rules, rule)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return list, nil
}

func parseRule(pattern string) (hostRule, error) {
	host, port := pattern, ""
	switch {
	case strings.Contains(pattern, "://"):
		return hostRule{}, errors.New("is a URL: name its host[:port] alone")
	case strings.HasPrefix(pattern, "["), strings.Count(pattern, ":") == 1:
		if strings.HasSuffix(pattern, "]") {
			host = strings.Trim(pattern, "[]")
			break
		}
		var err error
		if host, port, err = net.SplitHostPort(pattern); err != nil {
			return hostRule{}, errors.New("is not host[:port]")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return hostRule{}, errors.New("has no valid port")
		}
	}
	if ip := net.ParseIP(host); ip != nil {
		return hostRule{host: ip.String(), port: port}, nil
	}
	rule := hostRule{host: strings.ToLower(host), port: port}
	if rest, found := strings.CutPrefix(rule.host, "*"); found {
		if !strings.HasPrefix(rest, ".") {
			return hostRule{}, errors.New("* must be the leftmost label of a longer name")
		}
		rule.host, rule.subdomain = rest[1:], true
	}
	if !isName(rule.host) {
		return hostRule{}, errors.New("is not host[:port], with * as the leftmost label only")
	}
	if rule.subdomain {
		rule.host = "." + rule.host
	}
	return rule, nil
}

// isName accepts DNS names in their ASCII form, and underscores as in container
// networks.
func isName(host string) bool {
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range label {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}

// Check returns an error that matches [ErrServiceURL] unless the bot may send
// its bearer token to serviceURL.
func (l *AllowList) Check(serviceURL string) error {
	place := &l.passed[maphash.String(hashSeed, serviceURL)%uint64(len(l.passed))]
	if good := place.Load(); good != nil && *good == serviceURL {
		return nil
	}
	if err := l.check(serviceURL); err != nil {
		return err
	}
	good := strings.Clone(serviceURL)
	place.Store(&good)
	return nil
}

func (l *AllowList) check(serviceURL string) error {
	u, err := url.Parse(serviceURL)
	switch {
	case err != nil || u.Host == "" || strings.Contains(serviceURL, `\`):
		return &ServiceURLError{Problem: "no absolute URL"}
	case u.Scheme != "https" && u.Scheme != "http":
		return &ServiceURLError{Problem: "neither https nor http"}
	case u.User != nil || strings.ContainsAny(serviceURL, "?#"):
		return &ServiceURLError{Problem: "user, query and fragment have no place in it"}
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	ip := net.ParseIP(host)
	if ip != nil {
		host = ip.String()
	}
	if l.loopback && isLoopback(host, ip) {
		return nil
	}
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	insecure := false
	for i := range l.rules {
		rule := &l.rules[i]
		if !rule.matches(host, port) {
			continue
		}
		if u.Scheme == "https" || rule.plain {
			return nil
		}
		insecure = true
	}
	if insecure {
		return &ServiceURLError{Host: host, Problem: fmt.Sprintf("host %q needs https", host)}
	}
	return &ServiceURLError{Host: host, Problem: fmt.Sprintf("host %q is not listed", host)}
}

func (r *hostRule) matches(host, port string) bool {
	if r.port != "" && r.port != port {
		return false
	}
	if r.subdomain {
		return len(host) > len(r.host) && strings.HasSuffix(host, r.host)
	}
	return host == r.host
}

// isLoopback reports whether a host is a loopback one. ip is host parsed as an
// address, nil if it is a name.
func isLoopback(host string, ip net.IP) bool {
	if ip != nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}
