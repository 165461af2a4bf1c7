package main

import (
	"context"
	"reflect"
	"strconv"
	"strings"
	"unicode"

	"github.com/signin-engine/signin-engine/transport/operator"
)

// longest is the number of characters of one value that people are shown.
const longest = 1000

// safe makes foreign text fit for a terminal: one line, with every invisible
// character written as an escape (\x1b, \u202e).
func safe(text string) string {
	var b strings.Builder
	for n, r := range []rune(strings.ToValidUTF8(text, "\uFFFD")) {
		switch {
		case n == longest:
			b.WriteString("…")
			return b.String()
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case unicode.IsSpace(r) && r < unicode.MaxASCII:
			b.WriteByte(' ')
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

// safeReader wraps a reader whose answers are shown to people: every text in them
// passes through [safe]. Machine formats get the answers unchanged.
type safeReader struct{ reader }

func (r safeReader) Overview(ctx context.Context) (operator.Overview, error) {
	o, err := r.reader.Overview(ctx)
	return made(o), err
}

func (r safeReader) List(ctx context.Context, q operator.Query) (operator.Page, error) {
	page, err := r.reader.List(ctx, q)
	return made(page), err
}

func (r safeReader) Search(ctx context.Context, id string) (operator.Page, error) {
	page, err := r.reader.Search(ctx, id)
	return made(page), err
}

func (r safeReader) Get(ctx context.Context, id string) (operator.Detail, error) {
	d, err := r.reader.Get(ctx, id)
	return made(d), err
}

func (r safeReader) Events(ctx context.Context, q operator.EventQuery) (operator.EventPage, error) {
	page, err := r.reader.Events(ctx, q)
	return made(page), err
}

func (r safeReader) Info(ctx context.Context) (operator.Info, error) {
	info, err := r.reader.Info(ctx)
	return made(info), err
}

// made returns an answer with every text in it made [safe].
func made[T any](answer T) T {
	clean(reflect.ValueOf(&answer).Elem())
	return answer
}

func clean(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // the others hold no text
	case reflect.String:
		if v.CanSet() {
			v.SetString(safe(v.String()))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			clean(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			clean(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			clean(v.Index(i))
		}
	}
}
