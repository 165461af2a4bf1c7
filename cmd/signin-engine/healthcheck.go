package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
)

func (c *cli) healthcheckCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the bot on this machine whether it is ready: exit 0, or 4",
		Long: `Asks GET /readyz of the bot on this machine. It exits with 0 if the bot would
take an activity now. It exits with 4 if the bot would not, or does not answer.`,
		Example: `  signin-engine healthcheck
  signin-engine healthcheck --listen 127.0.0.1:8080`,
		Args: args(cobra.NoArgs),
	}
	cmd.Flags().String("listen", config.Default().Listen, "`host:port` of the bot")
	cmd.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "wait no longer than this")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.settings(cmd)
		if err != nil {
			return err
		}
		address, err := dialable(cfg.Listen)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		return c.askReady(ctx, "http://"+address+"/readyz")
	}
	return cmd
}

// dialable returns the address at which a process on the same machine reaches a
// listener.
func dialable(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" || port == "0" {
		return "", usage("listen: %q is no host:port that can be asked: name it with --listen", listen)
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port), nil
}

func (c *cli) askReady(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usage("listen: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: no answer: %w", errNotReady, err)
	}
	defer res.Body.Close() //nolint:errcheck // read, not written
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errNotReady, err)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: %s answered %d: %s", errNotReady, url, res.StatusCode, strings.TrimSpace(string(body)))
	default:
		return c.printf("ready\n")
	}
}
