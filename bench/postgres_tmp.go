package main

import (
	"context"
	"errors"
)

func throwawayPostgres(context.Context) (string, func() error, error) {
	return "", nil, errors.New("no postgres yet")
}
