package teams_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/signin-engine/signin-engine/store"
)

// The ids in the recorded trace [S 001].
const (
	seedUser         = "29:1cgsv1oFLAoTflZ-AxCZ_erWK6f4AqDSzZGpJOS7FuyfB8gn-g9bWmVM8usvvrv2e0atWV6wxZOQCn-xntjVrrQ"
	seedConversation = "a:1xH4HncZ6lyZnMVYp9rTKoRyS44qDCikYZ1u-Q0VNmZqyceL6nKfe5ZKG9CqOi2WuXNDJyLBAaDgVChKMxKFPlAZ5bsy0_8RhvPYYi5ZJJKCiia_SEd_e8WJVlSHOIM3Z"
	seedTenant       = "3f3d1cea-7a18-41af-872b-cfbbd5140984"
	seedServiceURL   = "https://smba.trafficmanager.net/amer/3f3d1cea-7a18-41af-872b-cfbbd5140984/"
	seedBot          = "28:e3cb1c84-14e3-419c-b39c-1c06097b55fd"
	seedMessage      = "1776827520098"
	seedCard         = "1776827524158"
	seedInvoke       = "f:7d1e8ec2-5897-396e-aa7b-f579ad2fac9f"
)

func seedReference() store.Conversation {
	return store.Conversation{
		ServiceURL: seedServiceURL,
		Channel:    "msteams",
		ID:         seedConversation,
		Type:       "personal",
		Tenant:     seedTenant,
		BotID:      seedBot,
		BotName:    "my-bot-sso",
		UserID:     seedUser,
		UserName:   "Rido",
		UserAAD:    "03500558-e554-416c-90c3-a061cdcd012b",
	}
}

// recorded reads a file of the trace unchanged.
func recorded(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// golden reads a file of the trace without the white space between its tokens,
// that is, the bytes on the wire.
func golden(tb testing.TB, name string) string {
	tb.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, recorded(tb, name)); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}
