package operator

import (
	"context"
	"fmt"
	"strings"

	"github.com/signin-engine/signin-engine/store"
)

// Searcher finds attempts by any id that a person may have. [Direct] and [Client]
// implement it.
type Searcher interface {
	// Search returns up to 50 attempts that belong to an id, newest first. The id
	// may be that of an attempt or its first 4 or more characters, an exchange id, a
	// user's MRI or Entra object id, a conversation id, or the activity id of a card
	// or of the message that asked for the sign-in. The page is empty if nothing
	// matches; an empty id is ErrBadRequest.
	Search(ctx context.Context, id string) (Page, error)
}

// minPrefix is the shortest beginning of an attempt's id that Search takes.
const minPrefix = 4

// Search implements [Searcher].
func (d *Direct) Search(ctx context.Context, id string) (Page, error) {
	id = strings.TrimSpace(id)
	if id == "" {
		return Page{}, fmt.Errorf("%w: nothing to look for", ErrBadRequest)
	}
	for _, look := range []func(context.Context, string) (Page, error){d.byPrefix, d.byExchange, d.byUser, d.byConversation, d.byActivity} {
		page, err := look(ctx, id)
		if err != nil || len(page.Attempts) > 0 {
			return page, err
		}
	}
	return Page{Attempts: []View{}}, nil
}

func (d *Direct) byPrefix(ctx context.Context, id string) (Page, error) {
	const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // of a ULID
	if len(id) < minPrefix || strings.Trim(strings.ToUpper(id), letters) != "" {
		return Page{}, nil
	}
	return d.searchBy(ctx, store.Filter{IDPrefix: strings.ToUpper(id)})
}

// byExchange looks the exchange id up for every bot that the newest attempts belong
// to: the store finds exchange ids within one bot only.
func (d *Direct) byExchange(ctx context.Context, id string) (Page, error) {
	newest, err := d.store.List(ctx, store.Filter{Limit: defaultLimit})
	if err != nil {
		return Page{}, fmt.Errorf("look for exchange %s: %w", id, err)
	}
	asked := map[string]bool{}
	for i := range newest.Attempts {
		app := newest.Attempts[i].Key.App
		if asked[app] {
			continue
		}
		asked[app] = true
		snap, err := d.store.Find(ctx, store.Query{User: newest.Attempts[i].Key.UserKey(), ExchangeID: id})
		if err != nil {
			return Page{}, fmt.Errorf("look for exchange %s: %w", id, err)
		}
		if snap.ByExchangeID != nil {
			return d.searchBy(ctx, store.Filter{IDPrefix: snap.ByExchangeID.ID})
		}
	}
	return Page{}, nil
}

func (d *Direct) byUser(ctx context.Context, id string) (Page, error) {
	return d.searchBy(ctx, store.Filter{User: id})
}

func (d *Direct) byConversation(ctx context.Context, id string) (Page, error) {
	if !strings.Contains(id, ":") { // every conversation id has one: a:…, 19:…
		return Page{}, nil
	}
	return d.searchBy(ctx, store.Filter{Conversation: id})
}

func (d *Direct) byActivity(ctx context.Context, id string) (Page, error) {
	return d.searchBy(ctx, store.Filter{Activity: id})
}

func (d *Direct) searchBy(ctx context.Context, f store.Filter) (Page, error) {
	f.Limit = defaultLimit
	page, err := d.store.List(ctx, f)
	if err != nil {
		return Page{}, fmt.Errorf("search: %w", err)
	}
	hits := Page{NextCursor: page.Next}
	for i := range page.Attempts {
		hits.Attempts = append(hits.Attempts, d.view(page.Now, &page.Attempts[i], page.Deliveries))
	}
	return hits, nil
}

// Search implements [Searcher].
func (c *Client) Search(ctx context.Context, id string) (Page, error) {
	var p Page
	return p, c.get(ctx, "/search", map[string][]string{"q": {id}}, &p)
}
