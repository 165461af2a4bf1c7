package main

import (
	"context"
	"errors"

	"github.com/signin-engine/signin-engine/cmd/signin-engine/internal/config"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/pgstore"
)

// openPostgres opens the database that the settings name.
func openPostgres(ctx context.Context, cfg config.Config, more ...pgstore.Option) (store.Store, error) {
	st, err := pgstore.Open(ctx, cfg.Store.Address.Reveal(), append(cfg.PostgresOptions(), more...)...)
	if err != nil {
		return nil, postgresError(err)
	}
	return st, nil
}

// postgresError puts a database's error into one line that names the setting.
func postgresError(err error) error {
	if err == nil {
		return nil
	}
	text := joinLines(err.Error())
	if errors.Is(err, store.ErrSchema) {
		text += ": see signin-engine migrate status"
	}
	return oneLine{err, "store: " + text}
}

// oneLine is an error with another text. It unwraps to the original.
type oneLine struct {
	error
	text string
}

func (e oneLine) Error() string { return e.text }
func (e oneLine) Unwrap() error { return e.error }
