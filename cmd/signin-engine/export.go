package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/transport/operator"
)

func (c *cli) exportCommand() *cobra.Command {
	var anonymize bool
	var key string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write attempts with their audit lines as JSONL, or attempts as CSV",
		Long: `Writes all attempts that the filters select, newest first, for a ticket or a
SIEM. It never holds a secret.

--anonymize replaces user, conversation and tenant ids by pseudonyms. One id has
one pseudonym in an export. With --anonymize-key-file it has the same one in all
exports with that file.`,
		Example: `  signin-engine export --user 29:1cgsv1oFLAo --anonymize > ticket.jsonl
  signin-engine export --since 24h -o csv > day.csv`,
		Args: args(cobra.NoArgs),
	}
	f := c.filterFlags(cmd)
	cmd.Flags().BoolVar(&anonymize, "anonymize", false, "pseudonyms for user, conversation and tenant ids")
	cmd.Flags().StringVar(&key, "anonymize-key-file", "", "`file` whose content makes pseudonyms stable over several exports")
	c.formatFlag(cmd, formatJSONL, formatCSV)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		q, err := f.read(c.now())
		if err != nil {
			return err
		}
		var p *pseudonyms
		if anonymize || key != "" {
			if p, err = newPseudonyms(key); err != nil {
				return err
			}
		}
		return c.with(cmd, func(ctx context.Context, s *source) error { return c.export(ctx, s, q, p) })
	}
	return cmd
}

// exportPage is how many attempts are fetched at a time.
const exportPage = 200

func (c *cli) export(ctx context.Context, s *source, q operator.Query, p *pseudonyms) error {
	most := q.Limit
	q.Limit = exportPage
	for total := 0; ; {
		page, err := s.List(ctx, q)
		if err != nil {
			return err
		}
		attempts := page.Attempts
		if most > 0 && total+len(attempts) > most {
			attempts = attempts[:most-total]
		}
		if c.format == formatCSV {
			for i := range attempts {
				p.view(&attempts[i])
			}
			g := flat(attempts)
			if total > 0 {
				g.head = nil
			}
			err = c.printCSV(g)
		} else {
			err = c.exportLines(ctx, s, attempts, p)
		}
		if err != nil {
			return err
		}
		total += len(attempts)
		if !terminal(c.stdout) { // there the lines show the progress
			c.progress("exported %s", operator.Count(int64(total), "attempt"))
		}
		q.Cursor = page.NextCursor
		if q.Cursor == "" || most > 0 && total >= most {
			if !terminal(c.stdout) {
				c.progressDone()
			}
			return nil
		}
	}
}

func (c *cli) exportLines(ctx context.Context, s *source, attempts []operator.View, p *pseudonyms) error {
	for i := range attempts {
		d, err := s.Get(ctx, attempts[i].ID)
		if err != nil {
			return err
		}
		p.detail(&d)
		if err = c.printJSONLine(d); err != nil {
			return err
		}
	}
	return nil
}

// pseudonyms replaces ids by HMACs. A nil *pseudonyms leaves them unchanged.
type pseudonyms struct{ key []byte }

// newPseudonyms reads the key from a file; without a file it makes a random one.
func newPseudonyms(file string) (*pseudonyms, error) {
	if file != "" {
		key, err := os.ReadFile(file)
		if err != nil {
			return nil, usage("--anonymize-key-file: %w", err)
		}
		if len(key) == 0 {
			return nil, usage("--anonymize-key-file: %s is empty", file)
		}
		return &pseudonyms{key}, nil
	}
	key := make([]byte, 32)
	if _, err := io.ReadFull(rand.Reader, key); err != nil {
		return nil, err
	}
	return &pseudonyms{key}, nil
}

// name is the pseudonym of an id. Its prefix kind tells the reader what was
// replaced.
func (p *pseudonyms) name(kind, id string) string {
	if p == nil || id == "" {
		return id
	}
	h := hmac.New(sha256.New, p.key)
	h.Write([]byte(kind + "\x00" + id))
	return kind + "-" + hex.EncodeToString(h.Sum(nil)[:8])
}

func (p *pseudonyms) view(v *operator.View) {
	if p == nil {
		return
	}
	v.Key.User = p.name("user", v.Key.User)
	v.UserAAD = p.name("aad", v.UserAAD)
	v.UserName = p.name("name", v.UserName)
	v.Tenant = p.name("tenant", v.Tenant)
	v.Conversation.ID = p.name("conversation", v.Conversation.ID)
	v.Failure = wordless(v.Failure)
}

// wordless is a failure without its free text, which may contain anything.
func wordless(f *operator.FailureView) *operator.FailureView {
	if f == nil {
		return nil
	}
	c := *f
	c.Message = ""
	return &c
}

func (p *pseudonyms) detail(d *operator.Detail) {
	if p == nil {
		return
	}
	secretive := strings.NewReplacer(
		orNothing(d.Key.User), p.name("user", d.Key.User),
		orNothing(d.UserAAD), p.name("aad", d.UserAAD),
		orNothing(d.Conversation.ID), p.name("conversation", d.Conversation.ID),
		orNothing(d.Tenant), p.name("tenant", d.Tenant),
	)
	p.view(&d.View)
	for i := range d.Findings {
		f := &d.Findings[i]
		f.User, f.UserName, f.Detail = d.Key.User, d.UserName, secretive.Replace(f.Detail)
	}
	for i := range d.Events {
		e := &d.Events[i]
		e.Detail = secretive.Replace(e.Detail)
		if e.Key != nil {
			k := *e.Key
			k.User = p.name("user", k.User)
			e.Key = &k
		}
	}
	for i := range d.Deliveries {
		dl := &d.Deliveries[i]
		dl.Error = secretive.Replace(dl.Error)
		dl.Failure, dl.Refusal = wordless(dl.Failure), wordless(dl.Refusal)
	}
}

// orNothing replaces the empty string, which a replacer would match everywhere.
func orNothing(s string) string {
	if s == "" {
		return "\x00"
	}
	return s
}
