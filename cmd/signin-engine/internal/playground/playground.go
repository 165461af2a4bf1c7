// Package playground is the page of `signin-engine dev`: a chat with the bot as
// one Teams user on one or more devices, and beside it the user's attempt in the
// engine. The chat sends activities to the real bot over HTTP, as Teams does. The
// attempt is read from the operator endpoint.
package playground

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// Config names the services that a playground uses.
type Config struct {
	Emulator    *emulator.Server
	BotURL      string          // the bot's messaging endpoint
	Operator    operator.Reader // of the running bot
	ConsoleURL  string          // "" = no links to the console
	Connections []string
	Extension   bool // the bot has a message extension
}

// Playground is the page and the devices behind it. While it is served,
// [Playground.Run] has to run.
type Playground struct {
	cfg    Config
	origin *http.CrossOriginProtection
	tasks  chan func(context.Context)
	ended  chan struct{} // closed when Run ends
	once   sync.Once

	mu      sync.Mutex
	user    emulator.Account
	place   place
	devices []*device
	log     []entry
	changes int
	search  search
	other   emulator.Account // another user, who brings a stolen code
	handled map[string]int64 // by conversation, the last card that the devices have seen
}

// place is where the chat is.
type place struct {
	Kind string // personal, groupChat, channel
	ID   string
}

// device is a Teams client of the user. Every device gets every card.
type device struct {
	Name     string
	Reaction string // what it does with a card, see reactions
	Token    string // what its SSO tokens look like, see tokenKinds
	last     *emulator.Incoming
}

// entry is a line of the chat that the bot did not write.
type entry struct {
	At     time.Time
	Place  string
	Mine   bool // the user wrote it; otherwise a device sent it
	Device string
	Text   string
	Status int // the bot's answer; 0 = none yet
	Failed string
	Took   time.Duration
}

const (
	reactSSO     = "sso"
	reactTwice   = "twice"
	reactNothing = "nothing"
	reactFail    = "fail:"
)

const (
	deviceMost = 5
	logMost    = 300
	// deviceLag is how long a device waits before it answers a card, so that a
	// person sees the card first.
	deviceLag = 500 * time.Millisecond
	look      = 100 * time.Millisecond
	sendMost  = time.Minute
)

// New makes a playground with one user on one device.
func New(cfg Config) *Playground {
	p := &Playground{cfg: cfg, origin: http.NewCrossOriginProtection(), tasks: make(chan func(context.Context)), ended: make(chan struct{})}
	p.startOver()
	return p
}

// startOver makes a new user, whom neither the bot nor the Token Service knows.
func (p *Playground) startOver() {
	key := strings.ToLower(rand.Text())
	p.user = emulator.Account{ID: "29:1" + key, Name: emulator.DefaultUser().Name, AADObjectID: uuidOf(key)}
	p.devices = []*device{{Name: "Windows", Reaction: reactSSO, Token: tokenGood}}
	p.log, p.handled, p.search, p.other = nil, map[string]int64{}, search{}, somebody()
	p.move("personal")
	p.changes++
}

func uuidOf(key string) string {
	hex := fmt.Sprintf("%x", key)
	return hex[:8] + "-" + hex[8:12] + "-4" + hex[13:16] + "-8" + hex[17:20] + "-" + hex[20:32]
}

// move changes where the chat takes place. Each kind has one conversation per
// user.
func (p *Playground) move(kind string) {
	id := p.user.ID[4:]
	switch kind {
	case "groupChat":
		p.place = place{kind, "19:" + id + "@thread.v2"}
	case "channel":
		p.place = place{kind, "19:" + id + "@thread.tacv2"}
	default:
		p.place = place{"personal", "a:1" + id}
	}
}

// Run lets the devices answer cards, and carries out what the page asks for,
// until ctx is done.
func (p *Playground) Run(ctx context.Context) error {
	defer p.once.Do(func() { close(p.ended) })
	var work errgroup.Group
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return work.Wait()
		case task := <-p.tasks:
			work.Go(func() error { task(ctx); return nil })
		case <-tick.C:
			for _, task := range p.answers() {
				work.Go(func() error { task(ctx); return nil })
			}
		}
	}
}

// stopped returns a channel that is closed when Run ends. Streams end then.
func (p *Playground) stopped() <-chan struct{} { return p.ended }

var errStopped = errors.New("the playground has stopped")

// begin has Run carry out a task. It waits up to 1.5 s for the task to end, so
// that the page which is loaded next shows the result.
func (p *Playground) begin(ctx context.Context, task func(context.Context)) error {
	done := make(chan struct{})
	const moment = 1500 * time.Millisecond
	wait := time.NewTimer(moment)
	defer wait.Stop()
	select {
	case p.tasks <- func(ctx context.Context) { defer close(done); task(ctx) }:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.ended:
		return errStopped
	case <-wait.C:
		return errStopped
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-wait.C:
	}
	return nil
}

// answers returns the tasks of the devices for cards that they have not seen
// before.
func (p *Playground) answers() []func(context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	here := p.place
	card, ok := p.cfg.Emulator.LastCard(here.ID)
	if !ok || card.Seq <= p.handled[here.ID] {
		return nil
	}
	p.handled[here.ID] = card.Seq
	p.changes++
	var tasks []func(context.Context)
	for _, d := range p.devices {
		if card.ExchangeID() == "" && !strings.HasPrefix(d.Reaction, reactFail) {
			continue
		}
		who, reaction := *d, d.Reaction
		tasks = append(tasks, func(ctx context.Context) {
			select {
			case <-time.After(deviceLag):
			case <-ctx.Done():
				return
			}
			p.react(ctx, who, reaction, card)
		})
	}
	return tasks
}

func (p *Playground) react(ctx context.Context, who device, reaction string, card emulator.Card) {
	switch {
	case reaction == reactSSO:
		p.exchange(ctx, who, card)
	case reaction == reactTwice:
		p.exchange(ctx, who, card)
		p.again(ctx, who.Name)
	case strings.HasPrefix(reaction, reactFail) && card.ExchangeID() != "":
		p.failure(ctx, who, strings.TrimPrefix(reaction, reactFail))
	}
}

// teams returns the user's client on a device, in the present conversation.
func (p *Playground) teams(name string) *emulator.Teams {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.cfg.Emulator.Teams(p.cfg.BotURL)
	t.User, t.Platform = p.user, name
	t.Conversation.ID, t.Conversation.Type, t.Conversation.IsGroup = p.place.ID, p.place.Kind, p.place.Kind != "personal"
	return t
}

// send logs an entry in the chat, delivers, and then adds the answer to the
// entry.
func (p *Playground) send(ctx context.Context, e entry, deliver func(context.Context, *emulator.Teams) (emulator.Answer, error)) {
	t := p.teams(e.Device)
	began := time.Now()
	e.At, e.Place = began, t.Conversation.ID
	p.mu.Lock()
	p.log = append(p.log, e)
	if len(p.log) > logMost {
		p.log = slices.Delete(p.log, 0, len(p.log)-logMost)
	}
	p.changes++
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sendMost)
	defer cancel()
	answer, err := deliver(ctx, t)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes++
	for i := range p.log {
		if l := &p.log[i]; l.At.Equal(began) && l.Text == e.Text && l.Device == e.Device {
			l.Status, l.Took = answer.Status, time.Since(began)
			if err != nil {
				l.Failed = err.Error()
			}
		}
	}
	if d := p.device(e.Device); d != nil && err == nil && answer.Sent.Type == "invoke" {
		sent := answer.Sent
		d.last = &sent
	}
}

// device returns the device of that name. The caller holds the lock.
func (p *Playground) device(name string) *device {
	for _, d := range p.devices {
		if d.Name == name {
			return d
		}
	}
	return nil
}

func (p *Playground) say(ctx context.Context, device, text string) {
	p.send(ctx, entry{Mine: true, Device: device, Text: text}, func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		return t.SendMessage(ctx, text)
	})
}

func (p *Playground) exchange(ctx context.Context, who device, card emulator.Card) {
	t := p.teams(who.Name)
	token := ssoToken(who.Token, t, card)
	if who.Token != tokenGood {
		p.cfg.Emulator.SetSSOToken(token, http.StatusBadRequest)
	}
	p.send(ctx, entry{Device: who.Name, Text: "signin/tokenExchange"}, func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		return t.TokenExchange(ctx, card.ExchangeID(), card.Connection, token)
	})
}

func (p *Playground) failure(ctx context.Context, who device, code string) {
	p.send(ctx, entry{Device: who.Name, Text: "signin/failure " + code}, func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		return t.Failure(ctx, code, "Said by the playground")
	})
}

// verify sends a code, or emulator.CancelledByUser if the window was closed.
func (p *Playground) verify(ctx context.Context, device, code, card string) {
	text := "signin/verifyState"
	if code == emulator.CancelledByUser {
		text += " " + code
	}
	p.send(ctx, entry{Device: device, Text: text}, func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		return t.VerifyState(ctx, code, card)
	})
}

// again sends the last invoke of a device a second time.
func (p *Playground) again(ctx context.Context, name string) {
	p.mu.Lock()
	d := p.device(name)
	var last *emulator.Incoming
	if d != nil {
		last = d.last
	}
	p.mu.Unlock()
	if last == nil {
		return
	}
	p.send(ctx, entry{Device: name, Text: last.Name + ", once more"}, func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		return t.Send(ctx, *last)
	})
}
