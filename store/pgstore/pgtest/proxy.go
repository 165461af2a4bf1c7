package pgtest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between clients and a server, and can make connections dead: what is
// sent on them is lost, and neither end is told.
type Proxy struct {
	listener net.Listener
	socket   string

	mu    sync.Mutex
	lines []*line
	ended sync.WaitGroup
}

// line is a connection through the proxy.
type line struct {
	client, server net.Conn
	frozen         chan struct{} // closed when nothing passes any more
	ended          atomic.Bool
	once           sync.Once
}

func (l *line) freeze() { l.once.Do(func() { close(l.frozen) }) }

// Server is what a proxy leads to: a [Cluster] or a [Bouncer].
type Server interface{ socket() string }

// NewProxy starts a proxy that ends with the test.
func NewProxy(tb testing.TB, server Server) *Proxy {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	p := &Proxy{listener: l, socket: server.socket()}
	p.ended.Go(p.accept)
	tb.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, one := range p.lines {
			_ = one.client.Close()
			_ = one.server.Close()
		}
		p.mu.Unlock()
		p.ended.Wait()
	})
	return p
}

// DSN is the superuser's address through the proxy.
func (p *Proxy) DSN() string {
	return "postgres://postgres@" + p.listener.Addr().String() + "/postgres?sslmode=disable"
}

// Freeze makes the oldest n open connections dead (n < 0: all), and returns how many
// those were.
func (p *Proxy) Freeze(n int) (frozen int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.lines {
		if !one.ended.Load() && frozen != n {
			one.freeze()
			frozen++
		}
	}
	return frozen
}

// Thaw closes the dead connections, so that both ends are told.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.lines {
		select {
		case <-one.frozen:
			_ = one.client.Close()
			_ = one.server.Close()
		default:
		}
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", p.socket)
		if err != nil {
			_ = client.Close()
			continue
		}
		one := &line{client: client, server: server, frozen: make(chan struct{})}
		p.mu.Lock()
		p.lines = append(p.lines, one)
		p.mu.Unlock()
		p.ended.Go(func() { one.pass(client, server) })
		p.ended.Go(func() { one.pass(server, client) })
	}
}

// pass copies from one end to the other until the line is frozen.
func (l *line) pass(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-l.frozen:
			_, _ = io.Copy(io.Discard, from) // until the test ends
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	l.ended.Store(true)
	_ = from.Close()
	_ = to.Close()
}
