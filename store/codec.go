package store

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// The encoding of a record: one byte of format, then fields, each a tag
// (number of the field times two, plus one if the value is bytes) and a value:
// a zigzag varint, or a length and that many bytes. Zero members are omitted
// and unknown fields skipped, so that an older program reads what a newer one
// wrote. Field numbers are for good: a new member takes the next one.
const codecFormat = 1

// AppendAttempt appends the encoding of a to dst. Times are kept in
// microseconds.
func AppendAttempt(dst []byte, a *Attempt) []byte { return appendRecord(dst, a, attemptFields[:]) }

// DecodeAttempt is the inverse of [AppendAttempt]; it copies what it keeps. The error
// is ErrCorrupt, also for a state that this program does not know.
func DecodeAttempt(b []byte) (Attempt, error) {
	var a Attempt
	if err := a.Decode(b); err != nil {
		return Attempt{}, err
	}
	return a, nil
}

// Decode is [DecodeAttempt] in place. After an error a must not be used.
func (a *Attempt) Decode(b []byte) error {
	*a = Attempt{}
	err := decodeRecord(b, a, attemptFields[:])
	if err == nil && !a.State.Valid() {
		err = corrupt("no state")
	}
	if err != nil {
		return fmt.Errorf("decode attempt: %w", err)
	}
	return nil
}

// AppendEvent appends the encoding of e to dst. Time and duration are kept in
// microseconds.
func AppendEvent(dst []byte, e *Event) []byte { return appendRecord(dst, e, eventFields[:]) }

// AppendLine appends the length of the encoding of e and the encoding, without Attempt:
// the lines of an attempt are stored one after the other.
func AppendLine(dst []byte, e *Event) []byte {
	const attempt = 1 // the first field
	at := len(dst)
	dst = append(dst, 0, codecFormat) // one byte is enough for most lengths
	dst = appendFields(dst, e, eventFields[:], attempt+1)
	size := uint64(len(dst) - at - 1)
	if size < 0x80 {
		dst[at] = byte(size)
		return dst
	}
	var head [binary.MaxVarintLen64]byte
	return slices.Replace(dst, at, at+1, head[:binary.PutUvarint(head[:], size)]...)
}

// DecodeLines is the inverse of [AppendLine], for all lines of b. An error is
// [ErrCorrupt].
func DecodeLines(b []byte) ([]Event, error) {
	var lines []Event
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, corrupt("length of a line")
		}
		e, err := DecodeEvent(b[w : w+int(n)])
		if err != nil {
			return nil, err
		}
		lines = append(lines, e)
		b = b[w+int(n):]
	}
	return lines, nil
}

// DecodeEvent is the inverse of [AppendEvent]. An error is [ErrCorrupt].
func DecodeEvent(b []byte) (Event, error) {
	var e Event
	if err := decodeRecord(b, &e, eventFields[:]); err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	return e, nil
}

// AppendDelivery appends the encoding of d to dst. Times are kept in
// microseconds.
func AppendDelivery(dst []byte, d *Delivery) []byte {
	return appendRecord(dst, d, deliveryFields[:])
}

// DecodeDelivery is the inverse of [AppendDelivery]. An error is [ErrCorrupt].
func DecodeDelivery(b []byte) (Delivery, error) {
	var d Delivery
	if err := decodeRecord(b, &d, deliveryFields[:]); err != nil {
		return Delivery{}, fmt.Errorf("decode delivery: %w", err)
	}
	return d, nil
}

// The fields of the records: the index is the field's number; 0 stays free.
var attemptFields = [...]field[Attempt]{
	1:  text(func(a *Attempt) *string { return &a.ID }),
	2:  number(func(a *Attempt) *int64 { return &a.Version }),
	3:  text(func(a *Attempt) *string { return &a.Key.App }),
	4:  text(func(a *Attempt) *string { return &a.Key.Channel }),
	5:  text(func(a *Attempt) *string { return &a.Key.User }),
	6:  text(func(a *Attempt) *string { return &a.Key.Connection }),
	7:  state(func(a *Attempt) *State { return &a.State }),
	8:  text(func(a *Attempt) *Origin { return &a.Origin }),
	9:  text(func(a *Attempt) *string { return &a.ExchangeID }),
	10: flag(func(a *Attempt) *bool { return &a.SSOOffered }),
	11: text(func(a *Attempt) *string { return &a.CardActivityID }),
	12: flag(func(a *Attempt) *bool { return &a.DeliveryUnknown }),
	13: flag(func(a *Attempt) *bool { return &a.PopupClosed }),
	14: text(func(a *Attempt) *string { return &a.Conversation.ServiceURL }),
	15: text(func(a *Attempt) *string { return &a.Conversation.Channel }),
	16: text(func(a *Attempt) *string { return &a.Conversation.ID }),
	17: text(func(a *Attempt) *string { return &a.Conversation.Type }),
	18: flag(func(a *Attempt) *bool { return &a.Conversation.IsGroup }),
	19: text(func(a *Attempt) *string { return &a.Conversation.Tenant }),
	20: text(func(a *Attempt) *string { return &a.Conversation.BotID }),
	21: text(func(a *Attempt) *string { return &a.Conversation.BotName }),
	22: text(func(a *Attempt) *string { return &a.Conversation.UserID }),
	23: text(func(a *Attempt) *string { return &a.Conversation.UserName }),
	24: text(func(a *Attempt) *string { return &a.Conversation.UserAAD }),
	25: text(func(a *Attempt) *string { return &a.Conversation.Locale }),
	26: text(func(a *Attempt) *string { return &a.CardConversation }),
	27: text(func(a *Attempt) *string { return &a.Platform }),
	28: instant(func(a *Attempt) *time.Time { return &a.Created }),
	29: instant(func(a *Attempt) *time.Time { return &a.Entered }),
	30: instant(func(a *Attempt) *time.Time { return &a.Expires }),
	31: text(func(a *Attempt) *string { return &a.Lease.Owner }),
	32: number(func(a *Attempt) *int64 { return &a.Lease.Fence }),
	33: instant(func(a *Attempt) *time.Time { return &a.Lease.Until }),
	34: instant(func(a *Attempt) *time.Time { return &a.CheckAt }),
	35: number(func(a *Attempt) *int { return &a.Checks }),
	36: number(func(a *Attempt) *int { return &a.VerifyTries }),
	37: number(func(a *Attempt) *int { return &a.Invokes }),
	38: number(func(a *Attempt) *int { return &a.Rounds }),
	39: number(func(a *Attempt) *int { return &a.Calls }),
	40: text(func(a *Attempt) *string { return &a.SSOOutcome }),
	41: text(func(a *Attempt) *Method { return &a.Method }),
	42: text(func(a *Attempt) *Reason { return &a.Reason }),
	43: failure(func(a *Attempt) **Failure { return &a.Failure }),
	44: number(func(a *Attempt) *int { return &a.AnswerStatus }),
	45: text(func(a *Attempt) *string { return &a.AnswerDetail }),
	46: blob(func(a *Attempt) *[]byte { return &a.TokenMark }),
	47: blob(func(a *Attempt) *[]byte { return &a.CodeMark }),
	48: text(func(a *Attempt) *string { return &a.Supersedes }),
	49: text(func(a *Attempt) *string { return &a.SupersededBy }),
	50: number(func(a *Attempt) *int64 { return &a.Generation }),
	51: blob(func(a *Attempt) *[]byte { return &a.Request }),
	52: number(func(a *Attempt) *int { return &a.CodeStatus }),
	53: text(func(a *Attempt) *string { return &a.Activity }),
	54: text(func(a *Attempt) *string { return &a.ResourceURI }),
	55: diagnosis(func(a *Attempt) *Diagnosis { return &a.Diagnosis }),
	56: instant(func(a *Attempt) *time.Time { return &a.NoSSOUntil }),
	57: number(func(a *Attempt) *int { return &a.AnswerCause }),
	58: instant(func(a *Attempt) *time.Time { return &a.AnswerAt }),
}

var eventFields = [...]field[Event]{
	1:  text(func(e *Event) *string { return &e.Attempt }),
	2:  number(func(e *Event) *int64 { return &e.Seq }),
	3:  instant(func(e *Event) *time.Time { return &e.Time }),
	4:  text(func(e *Event) *string { return &e.Instance }),
	5:  text(func(e *Event) *EventKind { return &e.Kind }),
	6:  text(func(e *Event) *string { return &e.Row }),
	7:  number(func(e *Event) *int64 { return &e.Version }),
	8:  state(func(e *Event) *State { return &e.From }),
	9:  state(func(e *Event) *State { return &e.To }),
	10: text(func(e *Event) *string { return &e.Invoke }),
	11: text(func(e *Event) *string { return &e.Activity }),
	12: number(func(e *Event) *int { return &e.Status }),
	13: duration(func(e *Event) *time.Duration { return &e.Duration }),
	14: text(func(e *Event) *string { return &e.Platform }),
	15: text(func(e *Event) *string { return &e.Detail }),
	16: text(func(e *Event) *string { return &e.Actor }),
	17: text(func(e *Event) *string { return &e.Key.App }),
	18: text(func(e *Event) *string { return &e.Key.Channel }),
	19: text(func(e *Event) *string { return &e.Key.User }),
	20: text(func(e *Event) *string { return &e.Key.Connection }),
	21: text(func(e *Event) *string { return &e.Code }),
	22: text(func(e *Event) *string { return &e.Source }),
}

var deliveryFields = [...]field[Delivery]{
	1:  text(func(d *Delivery) *string { return &d.Attempt }),
	2:  text(func(d *Delivery) *DeliveryKind { return &d.Kind }),
	3:  number(func(d *Delivery) *int { return &d.Round }),
	4:  text(func(d *Delivery) *DeliveryStatus { return &d.Status }),
	5:  number(func(d *Delivery) *int { return &d.Tries }),
	6:  instant(func(d *Delivery) *time.Time { return &d.Created }),
	7:  instant(func(d *Delivery) *time.Time { return &d.NextAt }),
	8:  text(func(d *Delivery) *string { return &d.Owner }),
	9:  flag(func(d *Delivery) *bool { return &d.Fanout }),
	10: failure(func(d *Delivery) **Failure { return &d.Failure }),
	11: text(func(d *Delivery) *string { return &d.Error }),
	12: failure(func(d *Delivery) **Failure { return &d.Refusal }),
}

var failureFields = [...]field[Failure]{
	1: text(func(f *Failure) *string { return &f.Source }),
	2: number(func(f *Failure) *int { return &f.Status }),
	3: text(func(f *Failure) *string { return &f.Code }),
	4: text(func(f *Failure) *string { return &f.Message }),
	5: text(func(f *Failure) *string { return &f.Operation }),
	6: text(func(f *Failure) *string { return &f.Kind }),
}

// stateCodes number the states; the position is what is stored.
var stateCodes = [...]State{None, Idle, CardSent, Exchanging, Verifying, Complete, Failed}

func corrupt(what string) error { return fmt.Errorf("%s: %w", what, ErrCorrupt) }

func appendRecord[T any](dst []byte, v *T, fields []field[T]) []byte {
	return appendFields(append(dst, codecFormat), v, fields, 1)
}

func decodeRecord[T any](b []byte, v *T, fields []field[T]) error {
	if len(b) == 0 || b[0] != codecFormat {
		return corrupt("unknown format")
	}
	// One copy of the whole record; every string is a part of it.
	return decodeFields(string(b[1:]), v, fields)
}

func appendFields[T any](dst []byte, v *T, fields []field[T], from int) []byte {
	for i := from; i < len(fields); i++ {
		dst = fields[i].put(dst, uint64(i), v)
	}
	return dst
}

func decodeFields[T any](s string, v *T, fields []field[T]) error {
	for s != "" {
		tag, rest, ok := uvarint(s)
		if !ok {
			return corrupt("tag")
		}
		var val value
		if val.n, rest, ok = uvarint(rest); !ok {
			return corrupt("value")
		}
		if val.bytes = tag&1 == 1; val.bytes {
			if val.n > uint64(len(rest)) {
				return corrupt("length")
			}
			val.s, rest = rest[:val.n], rest[val.n:]
		}
		s = rest
		i := tag >> 1
		if i == 0 || i >= uint64(len(fields)) {
			continue // of a newer program
		}
		if fields[i].bytes != val.bytes {
			return corrupt("type of a field")
		}
		if err := fields[i].get(v, val); err != nil {
			return err
		}
	}
	return nil
}

// uvarint is binary.Uvarint on a string.
func uvarint(s string) (n uint64, rest string, ok bool) {
	for i := 0; i < len(s) && i < binary.MaxVarintLen64; i++ {
		c := s[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			return 0, "", false
		}
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return n, s[i+1:], true
		}
	}
	return 0, "", false
}
