package teams

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	begin := func(t *testing.T) *turnContext {
		t.Helper()
		return &turnContext{request: context.WithValue(t.Context(), key{}, "kept"), deadline: time.Now().Add(time.Minute)}
	}
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := begin(t)
			defer c.end()
			began := time.Now()
			child, cancel := context.WithCancel(c)
			defer cancel()
			if c.Err() != nil || child.Value(key{}) != "kept" {
				t.Errorf("err %v, value %v", c.Err(), child.Value(key{}))
			}
			<-child.Done()
			if !errors.Is(child.Err(), context.DeadlineExceeded) || time.Since(began) != time.Minute {
				t.Errorf("%v after %v", child.Err(), time.Since(began))
			}
		})
	})
	t.Run("end", func(t *testing.T) {
		t.Parallel()
		c := begin(t)
		done := c.Done()
		c.end()
		<-done
		if !errors.Is(c.Err(), context.Canceled) {
			t.Error(c.Err())
		}
	})
	t.Run("end before anybody waits", func(t *testing.T) {
		t.Parallel()
		c := begin(t)
		c.end()
		<-c.Done()
		if !errors.Is(c.Err(), context.Canceled) || c.Value(key{}) != "kept" {
			t.Errorf("err %v, value %v", c.Err(), c.Value(key{}))
		}
	})
}
