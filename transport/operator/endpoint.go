package operator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Endpoint is where the operator API is served: a unix socket or a TCP
// address.
type Endpoint struct {
	Network string // "unix" or "tcp"
	Address string // path, or host:port
}

// ParseEndpoint reads unix:PATH, host:port or http://host:port. The error of
// another text is a predicate, such as "is neither …", for the caller to put the
// name of its setting in front.
func ParseEndpoint(s string) (Endpoint, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return Endpoint{}, errors.New("unix: needs a path")
		}
		return Endpoint{Network: "unix", Address: path}, nil
	}
	address := s
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
			return Endpoint{}, errors.New("is neither unix:PATH, host:port nor http://host:port")
		}
		address = u.Host
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return Endpoint{}, errors.New("is neither unix:PATH, host:port nor http://host:port")
	}
	return Endpoint{Network: "tcp", Address: address}, nil
}

// SocketBeside is the default unix socket of the process that has the bbolt file
// dbPath open: dbPath + ".sock".
func SocketBeside(dbPath string) Endpoint {
	return Endpoint{Network: "unix", Address: dbPath + ".sock"}
}

// String returns the form that [ParseEndpoint] reads.
func (e Endpoint) String() string {
	if e.Network == "unix" {
		return "unix:" + e.Address
	}
	return "http://" + e.Address
}

// ErrInUse means that another process serves the endpoint.
var ErrInUse = errors.New("another process serves it")

// dialTimeout bounds a connection attempt.
const dialTimeout = time.Second

// Listen opens the endpoint. A unix socket has mode 0600 from the moment it
// appears at its path. Listen replaces a socket that a dead process left behind,
// and returns ErrInUse if a process still answers there. Closing the listener
// removes the socket.
func (e Endpoint) Listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	if e.Network != "unix" {
		l, err := lc.Listen(ctx, "tcp", e.Address)
		if err != nil {
			return nil, fmt.Errorf("operator endpoint: %w", err)
		}
		return l, nil
	}
	if err := e.replaceable(ctx); err != nil {
		return nil, fmt.Errorf("operator socket %s: %w", e.Address, err)
	}
	l, err := e.listenUnix(ctx, lc)
	if err != nil {
		return nil, fmt.Errorf("operator socket %s: %w", e.Address, err)
	}
	return l, nil
}

// replaceable returns an error if a process answers at the socket, or if the path
// exists and is not a socket.
func (e Endpoint) replaceable(ctx context.Context) error {
	info, err := os.Lstat(e.Address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("the path exists and is no socket")
	}
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", e.Address)
	if err == nil {
		return errors.Join(ErrInUse, c.Close())
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// listenUnix binds the socket in a new directory that only this user can enter,
// sets its mode, and renames it to its path. So the socket never has a wider mode
// at its path, and a stale socket is replaced atomically.
func (e Endpoint) listenUnix(ctx context.Context, lc net.ListenConfig) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(e.Address), ".s")
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir) //nolint:errcheck // an empty directory left behind harms nobody
	private := filepath.Join(dir, "s")
	l, err := lc.Listen(ctx, "unix", private)
	if err != nil {
		return nil, err
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("no unix listener"), l.Close())
	}
	ul.SetUnlinkOnClose(false)
	err = os.Chmod(private, 0o600)
	var mine fs.FileInfo
	if err == nil {
		mine, err = os.Lstat(private)
	}
	if err == nil {
		err = os.Rename(private, e.Address)
	}
	if err != nil {
		return nil, errors.Join(err, ul.Close(), os.Remove(private))
	}
	return &unixListener{UnixListener: ul, path: e.Address, mine: mine}, nil
}

// unixListener removes its socket when it closes, unless another process has
// replaced it by its own.
type unixListener struct {
	*net.UnixListener
	path string
	mine fs.FileInfo
	once sync.Once
	err  error
}

// Close stops listening and removes the socket.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.mine) {
			l.err = os.Remove(l.path)
		}
		l.err = errors.Join(l.UnixListener.Close(), l.err)
	})
	return l.err
}

// Timeouts of the operator endpoint. There is none for writing, because the
// snapshot of a large store takes long.
const (
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 5 * time.Second
)

// Serve serves h on l until ctx is done. Then it closes l, gives the requests in
// flight 5 s to finish, and returns nil. It returns an error if serving or
// stopping fails.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxBody,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), stopKey{}, ctx.Done())
		},
	}
	stopped := make(chan error, 1)
	release := context.AfterFunc(ctx, func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err := srv.Shutdown(stop)
		if err != nil {
			err = errors.Join(err, srv.Close())
		}
		stopped <- err
	})
	err := srv.Serve(l)
	if release() {
		return fmt.Errorf("operator endpoint: %w", err)
	}
	if err = <-stopped; err != nil {
		return fmt.Errorf("stop operator endpoint: %w", err)
	}
	return nil
}
