package tokensvc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxBody bounds an answer, in bytes. A token with every claim there is stays
// far below.
const maxBody = 1 << 20

var (
	errMalformed = errors.New("malformed JSON in the answer")
	errTooLong   = errors.New("answer is longer than 1 MiB")
)

// call does one request. A status from 200 to 299 is a success, whose body it
// returns; anything else is an Error. After a 401 it asks once more with a new
// bearer token, if there is one: that answer means that nothing was done.
func (c *Client) call(ctx context.Context, op, method, path, query string, body []byte) ([]byte, *Error) {
	ctx, cancel := bounded(ctx, c.timeout)
	defer cancel()

	var bearer Secret
	if c.credentials != nil {
		var err error
		if bearer, err = c.credentials.Token(ctx); err != nil {
			return nil, &Error{Op: op, Err: bearerError(err)}
		}
	}
	answer, fail := c.send(ctx, op, method, path, query, body, bearer)
	if fail == nil || fail.Status != http.StatusUnauthorized || c.credentials == nil {
		return answer, fail
	}
	next, err := RenewToken(ctx, c.credentials, bearer)
	switch {
	case err != nil:
		return nil, &Error{Op: op, Err: err}
	case next.Empty():
		return nil, fail
	}
	return c.send(ctx, op, method, path, query, body, next)
}

func (c *Client) send(ctx context.Context, op, method, path, query string, body []byte, bearer Secret) ([]byte, *Error) {
	header := make(http.Header, 3)
	header["Accept"] = []string{"application/json"}
	if !bearer.Empty() {
		header["Authorization"] = []string{"Bearer " + bearer.Reveal()}
	}
	req := (&http.Request{
		Method: method,
		URL:    &url.URL{Scheme: c.scheme, Host: c.host, Path: c.prefix + path, RawQuery: query},
		Host:   c.host,
		Header: header,
	}).WithContext(ctx)
	if body != nil {
		header["Content-Type"] = []string{"application/json"}
		setBody(req, body)
	}
	return roundTrip(c.http, req, op)
}

// bounded is ctx with a timeout, or ctx itself if that ends sooner.
func bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= timeout {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

// setBody makes the body repeatable: the transport sends it again when a
// pooled connection turns out to be dead before it took a byte.
func setBody(req *http.Request, body []byte) {
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body = io.NopCloser(bytes.NewReader(body))
}

func roundTrip(client *http.Client, req *http.Request, op string) ([]byte, *Error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, noAnswer(op, err)
	}
	answer, err := readBody(resp)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		switch {
		case errors.Is(err, errTooLong):
			return nil, &Error{Op: op, Status: resp.StatusCode, Err: err}
		case err != nil: // cut off: half an answer is none
			return nil, &Error{Op: op, Err: withoutURL(err)}
		}
		return answer, nil
	}
	// The status is the answer, whatever became of the body.
	return nil, &Error{
		Op:         op,
		Status:     resp.StatusCode,
		Code:       errorCode(answer),
		Consent:    wantsConsent(resp.StatusCode, answer),
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
}

// noAnswer is the error of a request that the transport failed to make, or did
// not want to: then its error has a code, and may know how long to wait.
func noAnswer(op string, err error) *Error {
	e := &Error{Op: op, Err: withoutURL(err)}
	var own interface {
		error
		ErrorCode() string
		RetryDelay() time.Duration
	}
	if errors.As(err, &own) {
		e.Code, e.RetryAfter = own.ErrorCode(), own.RetryDelay()
	}
	return e
}

// readBody reads to the end, so that the connection goes back to the pool.
func readBody(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close() //nolint:errcheck // nothing depends on it: the body was read or given up
	if resp.ContentLength == 0 {
		return nil, nil
	}
	var buf bytes.Buffer
	if resp.ContentLength > 0 && resp.ContentLength <= maxBody {
		buf.Grow(int(resp.ContentLength) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(resp.Body, maxBody+1)); err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if buf.Len() > maxBody {
		return nil, errTooLong
	}
	return buf.Bytes(), nil
}

// withoutURL takes the URL off an error of net/http: its query holds user ids
// and codes.
func withoutURL(err error) error {
	var located *url.Error
	if errors.As(err, &located) {
		return located.Err
	}
	return err
}

// retryAfter reads seconds or an HTTP date (RFC 9110 §10.2.3); 0 if it is
// neither or over.
func retryAfter(value string, now time.Time) time.Duration {
	const longest = 24 * time.Hour
	if value == "" {
		return 0
	}
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), longest)
}
