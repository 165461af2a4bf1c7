package store_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/signin-engine/signin-engine/store"
)

// fill gives every member of a record a value of its own, so that one which the
// encoding forgets, or mixes up with another, is seen.
func fill(t *testing.T, v reflect.Value, n *int64) {
	t.Helper()
	*n++
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.UnixMicro(*n).UTC()
		return
	case *time.Duration:
		*x = time.Duration(*n) * time.Microsecond
		return
	case *store.State:
		*x = []store.State{store.Verifying, store.Failed, store.Idle}[*n%3]
		return
	case *store.Verdict:
		*x = []store.Verdict{store.Holds, store.Fails}[*n%2]
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.String:
		v.SetString("s" + string(rune('A'+*n)))
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.SetBytes([]byte{byte(*n), 0})
	default:
		t.Fatalf("a member of kind %s: teach the codec and this test", v.Kind())
	}
}

func checkEveryField[T any](t *testing.T, encode func([]byte, *T) []byte, decode func([]byte) (T, error)) {
	t.Helper()
	var want T
	var n int64
	fill(t, reflect.ValueOf(&want).Elem(), &n)
	prefix := []byte("before")
	b := encode(prefix, &want)
	if string(b[:len(prefix)]) != "before" {
		t.Error("the encoding is not appended")
	}
	got, err := decode(b[len(prefix):])
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("round trip (-want +got):\n%s", diff)
	}
	clear(b) // what was decoded must not lie in the input
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the record shares memory with its encoding:\n%s", diff)
	}
}

func TestCodecEveryField(t *testing.T) {
	t.Run("Attempt", func(t *testing.T) { checkEveryField(t, store.AppendAttempt, store.DecodeAttempt) })
	t.Run("Event", func(t *testing.T) { checkEveryField(t, store.AppendEvent, store.DecodeEvent) })
	t.Run("Delivery", func(t *testing.T) { checkEveryField(t, store.AppendDelivery, store.DecodeDelivery) })
}

func TestCodecCorners(t *testing.T) {
	a := store.Attempt{State: store.Idle, Failure: &store.Failure{}, Version: -1, Created: time.UnixMicro(0).UTC(), Entered: time.UnixMicro(-5).UTC()}
	got, err := store.DecodeAttempt(store.AppendAttempt(nil, &a))
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if diff := cmp.Diff(a, got); diff != "" {
		t.Errorf("round trip (-want +got):\n%s", diff)
	}
	if n := len(store.AppendEvent(nil, &store.Event{})); n != 1 {
		t.Errorf("an empty event takes %d bytes, want 1", n)
	}
}

func TestCodecRefusals(t *testing.T) {
	valid := store.AppendAttempt(nil, &store.Attempt{ID: "id", State: store.Complete})
	for name, b := range map[string][]byte{
		"empty":          {},
		"format":         {2},
		"no state":       {1},
		"unknown state":  {1, 7 << 1, 7 << 1},
		"negative state": {1, 7 << 1, 1},
		"no value":       {1, 7 << 1},
		"length":         {1, 1<<1 | 1, 5, 'a'},
		"type":           {1, 1 << 1, 1},
		"endless varint": {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"truncated":      valid[:len(valid)-1],
	} {
		if _, err := store.DecodeAttempt(b); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	// Fields of a newer program are skipped, both kinds.
	newer := append(valid, 0xfe, 0x01, 9, 0xff, 0x01, 2, 'x', 'y')
	if a, err := store.DecodeAttempt(newer); err != nil || a.ID != "id" || a.State != store.Complete {
		t.Errorf("with unknown fields: %+v, %v", a, err)
	}
}

func TestCodecRoundTrip(t *testing.T) {
	instant := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return time.UnixMicro(rapid.Int64Range(-1<<50, 1<<55).Draw(t, "us")).UTC()
	})
	states := rapid.SampledFrom([]store.State{store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.Complete, store.Failed})
	verdicts := rapid.SampledFrom([]store.Verdict{store.Unknown, store.Holds, store.Fails})
	failures := rapid.Ptr(rapid.Make[store.Failure](), true)
	config := rapid.MakeConfig{
		Types: map[reflect.Type]*rapid.Generator[any]{
			reflect.TypeFor[time.Time]():      instant.AsAny(),
			reflect.TypeFor[store.State]():    states.AsAny(),
			reflect.TypeFor[store.Verdict]():  verdicts.AsAny(),
			reflect.TypeFor[*store.Failure](): failures.AsAny(),
			reflect.TypeFor[[]byte](): rapid.Custom(func(t *rapid.T) []byte {
				if b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"); len(b) > 0 {
					return b
				}
				return nil
			}).AsAny(),
			reflect.TypeFor[time.Duration](): rapid.Custom(func(t *rapid.T) time.Duration {
				return time.Duration(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "us")) * time.Microsecond
			}).AsAny(),
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.MakeCustom[store.Attempt](config).Draw(t, "attempt")
		gotA, err := store.DecodeAttempt(store.AppendAttempt(nil, &a))
		if diff := cmp.Diff(a, gotA); err != nil || diff != "" {
			t.Fatalf("attempt: %v\n%s", err, diff)
		}
		e := rapid.MakeCustom[store.Event](config).Draw(t, "event")
		gotE, err := store.DecodeEvent(store.AppendEvent(nil, &e))
		if diff := cmp.Diff(e, gotE); err != nil || diff != "" {
			t.Fatalf("event: %v\n%s", err, diff)
		}
		d := rapid.MakeCustom[store.Delivery](config).Draw(t, "delivery")
		gotD, err := store.DecodeDelivery(store.AppendDelivery(nil, &d))
		if diff := cmp.Diff(d, gotD); err != nil || diff != "" {
			t.Fatalf("delivery: %v\n%s", err, diff)
		}
	})
}

// TestLines packs lines of all sizes one behind the other; cut off anywhere else
// than between two of them they are refused.
func TestLines(t *testing.T) {
	var packed []byte
	var want []store.Event
	ends := map[int]int{0: 0}
	for n := range 300 {
		line := store.Event{Attempt: "a", Seq: 9, Kind: store.EventNote, Detail: strings.Repeat("x", n)}
		packed = store.AppendLine(packed, &line)
		line.Attempt = ""
		want = append(want, line)
		ends[len(packed)] = len(want)
	}
	for cut := range len(packed) + 1 {
		n, whole := ends[cut]
		if cut < len(packed)-2000 && !whole {
			continue // reading all of them again and again takes long
		}
		got, err := store.DecodeLines(packed[:cut])
		switch {
		case whole && (err != nil || !slices.Equal(got, want[:n])):
			t.Fatalf("cut off at %d: %d lines, %v; want %d", cut, len(got), err, n)
		case !whole && !errors.Is(err, store.ErrCorrupt):
			t.Fatalf("cut off at %d: %d lines, %v; want ErrCorrupt", cut, len(got), err)
		}
	}
}

func FuzzDecodeLines(f *testing.F) {
	f.Add(store.AppendLine(nil, &store.Event{Kind: store.EventNote, Detail: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := store.DecodeLines(b)
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Fatal(err)
		}
		var again []byte
		for i := range lines {
			lines[i].Attempt = ""
			again = store.AppendLine(again, &lines[i])
		}
		if got, err := store.DecodeLines(again); err != nil || !slices.Equal(got, lines) {
			t.Fatalf("round trip: %v, %v", got, err)
		}
	})
}

// fuzz checks that decoding never panics, and that what it takes survives a
// round trip.
func fuzz[T any](f *testing.F, seed *T, encode func([]byte, *T) []byte, decode func([]byte) (T, error)) {
	f.Helper()
	whole := encode(nil, seed)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Add([]byte{1, 7 << 1, 4, 0xff, 0xff, 0x01, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decode(b)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatalf("decode: %v, want ErrCorrupt", err)
			}
			return
		}
		again, err := decode(encode(nil, &v))
		if diff := cmp.Diff(v, again); err != nil || diff != "" {
			t.Fatalf("round trip: %v\n%s", err, diff)
		}
	})
}

func seedAttempt() *store.Attempt {
	at := time.UnixMicro(1776827521020000).UTC()
	return &store.Attempt{
		ID: "01JSD4K2Q80000000000000000", Version: 4, State: store.Exchanging, Origin: store.OriginSignIn,
		Key:        store.Key{App: "app", Channel: "msteams", User: "29:1cg", Connection: "graph"},
		ExchangeID: "fc67", SSOOffered: true, Created: at, Entered: at, Expires: at.Add(time.Hour),
		Lease: store.Lease{Owner: "bot-b", Fence: 7, Until: at}, Failure: &store.Failure{Source: "client", Code: "x"}, TokenMark: []byte{1, 2},
	}
}

func FuzzDecodeAttempt(f *testing.F) {
	fuzz(f, seedAttempt(), store.AppendAttempt, store.DecodeAttempt)
}

func FuzzDecodeEvent(f *testing.F) {
	fuzz(f, &store.Event{Attempt: "a", Seq: 1, Kind: store.EventTransition, From: store.Idle, To: store.CardSent, Duration: time.Second}, store.AppendEvent, store.DecodeEvent)
}

func FuzzDecodeDelivery(f *testing.F) {
	fuzz(f, &store.Delivery{DeliveryKey: store.DeliveryKey{Attempt: "a", Kind: store.DeliverFailure, Round: 2}, Failure: &store.Failure{Code: "x"}}, store.AppendDelivery, store.DecodeDelivery)
}

func BenchmarkAppendAttempt(b *testing.B) {
	a := seedAttempt()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = store.AppendAttempt(buf[:0], a)
	}
}

func BenchmarkDecodeAttempt(b *testing.B) {
	buf := store.AppendAttempt(nil, seedAttempt())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := store.DecodeAttempt(buf); err != nil {
			b.Fatal(err)
		}
	}
}
