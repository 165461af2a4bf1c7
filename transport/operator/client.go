package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Client queries a running process through its operator endpoint. It implements
// [Reader], [Actor] and [Snapshotter].
type Client struct {
	endpoint Endpoint
	token    tokensvc.Secret
	http     *http.Client
}

// NewClient returns a client of the endpoint. The token may be empty for a unix
// socket. NewClient does not connect.
func NewClient(endpoint Endpoint, token tokensvc.Secret) *Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &Client{
		endpoint: endpoint,
		token:    token,
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, endpoint.Network, endpoint.Address)
			},
			ResponseHeaderTimeout: bodyTimeout,
			IdleConnTimeout:       idleTimeout,
		}},
	}
}

// maxAnswer bounds one JSON answer, in bytes. A page of 1000 attempts is about
// 1 MB.
const maxAnswer = 64 << 20

// Close closes idle connections. It always returns nil.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Overview implements [Reader].
func (c *Client) Overview(ctx context.Context) (Overview, error) {
	var o Overview
	return o, c.get(ctx, "/overview", nil, &o)
}

// List implements [Reader].
func (c *Client) List(ctx context.Context, q Query) (Page, error) {
	var p Page
	return p, c.get(ctx, "/attempts", q.Values(), &p)
}

// Get implements [Reader].
func (c *Client) Get(ctx context.Context, id string) (Detail, error) {
	var d Detail
	return d, c.get(ctx, "/attempts/"+url.PathEscape(id), nil, &d)
}

// Events implements [Reader].
func (c *Client) Events(ctx context.Context, q EventQuery) (EventPage, error) {
	var p EventPage
	return p, c.get(ctx, "/events", q.Values(), &p)
}

// Info implements [Reader].
func (c *Client) Info(ctx context.Context) (Info, error) {
	var i Info
	return i, c.get(ctx, "/info", nil, &i)
}

// Ready returns nil if the process is ready (GET /readyz), and otherwise the error
// that it reports.
func (c *Client) Ready(ctx context.Context) error {
	var s status
	return c.get(ctx, "/readyz", nil, &s)
}

// Reconcile implements [Actor].
func (c *Client) Reconcile(ctx context.Context, id string, op machine.Operator) (View, error) {
	return c.act(ctx, id, "reconcile", op)
}

// Cancel implements [Actor].
func (c *Client) Cancel(ctx context.Context, id string, op machine.Operator) (View, error) {
	return c.act(ctx, id, "cancel", op)
}

func (c *Client) act(ctx context.Context, id, action string, op machine.Operator) (View, error) {
	var v View
	err := c.post(ctx, "/attempts/"+url.PathEscape(id)+"/"+action, order{Actor: op.Actor, Reason: op.Reason}, &v)
	return v, err
}

// Redeliver implements [Actor].
func (c *Client) Redeliver(ctx context.Context, id string, op machine.Operator) (int, error) {
	var r redelivered
	err := c.post(ctx, "/attempts/"+url.PathEscape(id)+"/redeliver", order{Actor: op.Actor, Reason: op.Reason}, &r)
	return r.Redelivered, err
}

// RotateKey implements [Actor].
func (c *Client) RotateKey(ctx context.Context, op machine.Operator) (Rotation, error) {
	var r Rotation
	err := c.post(ctx, "/rotate-key", order{Actor: op.Actor, Reason: op.Reason}, &r)
	return r, err
}

// Purge implements [Actor].
func (c *Client) Purge(ctx context.Context, olderThan time.Duration, limit int, dry bool) (int, error) {
	var p purged
	err := c.post(ctx, "/purge", purgeOrder{OlderThan: olderThan.String(), Limit: limit, DryRun: dry}, &p)
	return p.Purged, err
}

// Snapshot implements [Snapshotter].
func (c *Client) Snapshot(ctx context.Context, w io.Writer) (int64, error) {
	res, err := c.do(ctx, http.MethodGet, "/snapshot", nil, nil)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(w, res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return n, fmt.Errorf("read snapshot: %w", err)
	}
	return n, nil
}

func (c *Client) get(ctx context.Context, path string, query url.Values, into any) error {
	return c.json(ctx, http.MethodGet, path, query, nil, into)
}

func (c *Client) post(ctx context.Context, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.json(ctx, http.MethodPost, path, nil, b, into)
}

func (c *Client) json(ctx context.Context, method, path string, query url.Values, body []byte, into any) error {
	res, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	err = json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into)
	if err = errors.Join(err, drain(res)); err != nil {
		return fmt.Errorf("%w: %s: %s answered nonsense: %w", ErrUnreachable, c.endpoint, path, err)
	}
	return nil
}

// do sends a request. It returns a response only for status 200; every other
// status becomes an error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	u := "http://operator" + path
	if c.endpoint.Network == "tcp" {
		u = "http://" + c.endpoint.Address + path
	}
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body)) //nolint:gosec // the operator names the endpoint
	if err != nil {
		return nil, fmt.Errorf("operator endpoint %s: %w", c.endpoint, err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !c.token.Empty() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	res, err := c.http.Do(req) //nolint:gosec // the operator names the endpoint
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("operator endpoint %s: %w", c.endpoint, ctx.Err())
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, c.endpoint, err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	var p problem
	err = json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(&p)
	if err = errors.Join(err, drain(res)); err != nil {
		return nil, fmt.Errorf("%w: %s answered %d", ErrUnreachable, c.endpoint, res.StatusCode)
	}
	return nil, p.asError(res.StatusCode)
}

// drain reads a body to its end, so that the connection can be reused.
func drain(res *http.Response) error {
	_, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	return errors.Join(err, res.Body.Close())
}
