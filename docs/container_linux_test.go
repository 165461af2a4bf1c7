package docs_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestContainer makes the image of deploy/container by hand: the static binary, the
// certificates and one directory, run without root and without anything else.
func TestContainer(t *testing.T) {
	if testing.Short() {
		t.Skip("an image is not for short runs")
	}
	file := read(t, "deploy/container/Containerfile")
	user, err := strconv.Atoi(strings.Split(instruction(t, file, "USER "), ":")[0])
	if err != nil || user == 0 {
		t.Fatalf("the image runs as %d, %v", user, err)
	}
	volume := instruction(t, file, "VOLUME ")
	for _, want := range []string{
		"CGO_ENABLED=0 go build -trimpath -o /out/signin-engine ./cmd/signin-engine",
		"COPY --from=build /out/signin-engine /signin-engine\n",
		"COPY --from=build --chown=" + strconv.Itoa(user) + ":" + strconv.Itoa(user) + " --chmod=0700 /out/data " + volume + "\n",
		`ENTRYPOINT ["/signin-engine"]`, `CMD ["serve"]`, `CMD ["/signin-engine", "healthcheck"]`,
	} {
		if !strings.Contains(file, want) {
			t.Fatalf("the Containerfile lacks %q: this test makes the image in another way than it does", want)
		}
	}

	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(root, "signin-engine"), "../cmd/signin-engine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	static(t, filepath.Join(root, "signin-engine"))
	data := filepath.Join(root, volume)
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o700); err != nil {
		t.Fatal(err)
	}
	start := &syscall.SysProcAttr{Chroot: root}
	if os.Getuid() == 0 {
		// What t.TempDir makes is for root alone.
		for dir := filepath.Dir(root); dir != "/"; dir = filepath.Dir(dir) {
			if info, err := os.Stat(dir); err == nil && info.Mode()&0o5 != 0o5 && strings.HasPrefix(dir, os.TempDir()) {
				if err := os.Chmod(dir, info.Mode()|0o5); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.Chown(data, user, user); err != nil {
			t.Fatal(err)
		}
		start.Credential = &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}
	} else { // whoever runs the tests is the image's user, in a namespace of his own
		start.Cloneflags = syscall.CLONE_NEWUSER
		start.UidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getuid(), Size: 1}}
		start.GidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getgid(), Size: 1}}
	}
	in := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "/signin-engine", args...)
		cmd.Path, cmd.Dir, cmd.Env, cmd.SysProcAttr = "/signin-engine", "/", []string{}, start
		for env := range strings.FieldsSeq(strings.ReplaceAll(instruction(t, file, "ENV "), "\\", "")) {
			cmd.Env = append(cmd.Env, env)
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := in("version"); err != nil {
		t.Fatalf("version: %v\n%s", err, out)
	}
	// Two sign-ins, on the store of the volume.
	if out, err := in("dev", "--once", "--listen", "127.0.0.1:0", "--emulator", "127.0.0.1:0", "--operator", "127.0.0.1:0"); err != nil {
		t.Fatalf("dev --once: %v\n%s", err, out)
	}
	if out, err := in("inspect", "--check"); err != nil {
		t.Fatalf("inspect: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(data, "signin.db")); err != nil {
		t.Error(err)
	}
	if out, err := in("serve"); err == nil || !strings.Contains(out, "app_id: is missing") {
		t.Errorf("serve without settings: %v\n%s", err, out)
	}
	if out, err := in("healthcheck"); err == nil {
		t.Errorf("healthcheck of a bot that does not run: %v\n%s", err, out)
	}
}

// instruction is what follows a word at the beginning of a line, with the lines
// that go on with it.
func instruction(t *testing.T, file, word string) string {
	t.Helper()
	_, stage, _ := strings.Cut(file, "FROM scratch\n")
	_, rest, ok := strings.Cut(stage, "\n"+word)
	if !ok {
		t.Fatalf("the Containerfile has no %s", word)
	}
	var text strings.Builder
	for line := range strings.Lines(rest) {
		text.WriteString(line)
		if !strings.HasSuffix(strings.TrimSpace(line), "\\") {
			break
		}
	}
	return strings.TrimSpace(text.String())
}

// static: nothing has to be there beside the program.
func static(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program needs a dynamic linker")
		}
	}
}
