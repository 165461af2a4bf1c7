package machine

import (
	"crypto/rand"
	"encoding/hex"
	"os"
)

func instanceName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "bot"
	}
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return host + "-" + hex.EncodeToString(b[:])
}
