package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// process is a server's program.
type process struct {
	cmd    *exec.Cmd
	log    string        // path of its output
	exited chan struct{} // closed when cmd has ended
}

// start starts a program in a directory, which also gets its log.
func (p *process) start(cred *syscall.Credential, dir, program string, args ...string) error {
	if p.running() {
		return errors.New("start: the server is running")
	}
	p.log = filepath.Join(dir, "log")
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer func() { _ = log.Close() }()
	// The program outlives the caller's context: stop ends it.
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	// The server dies with the test program, even if that is killed. The kernel watches the
	// thread that started the server, so that thread must stay.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGQUIT}
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the log tells how it ended
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start: %w", err)
	}
	p.cmd, p.exited = cmd, exited
	return nil
}

// ready waits until a connection can be made.
func (p *process) ready(ctx context.Context, connect func() error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := connect()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.exited:
			log, _ := os.ReadFile(p.log)
			return fmt.Errorf("start: the server ended: %s", log)
		case <-ctx.Done():
			return fmt.Errorf("start: %w: %w", ctx.Err(), err)
		}
	}
}

func (p *process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// stop shuts the program down and returns when it is gone.
func (p *process) stop(mode Mode) error {
	if !p.running() {
		return nil
	}
	sig, err := mode.signal()
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop: %w", err)
	}
	<-p.exited
	return nil
}
