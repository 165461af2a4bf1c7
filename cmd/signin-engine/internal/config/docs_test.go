package config

import (
	"encoding"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestPage checks that docs/configuration.md lists every setting with its
// default, and no others.
func TestPage(t *testing.T) {
	b, err := os.ReadFile("../../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	page, _, _ := strings.Cut(string(b), "\n## The reference bot\n")
	row := regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\| *`?([^|`]*?)`? *\\|")
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		documented[m[1]] = m[2]
	}

	there := map[string]reflect.Value{}
	settings(reflect.ValueOf(Default()), "", there)
	settings(reflect.ValueOf(Connection{Profile: &Profile{}, Direct: &Direct{}}), "connections[].", there)
	settings(reflect.ValueOf(MessageExtension{}), extensionKey, there)
	for key, value := range there {
		text, ok := documented[key]
		switch {
		case !ok:
			t.Errorf("the page lacks %s", key)
		case !same(value, text):
			t.Errorf("%s: the page says that its default is %q, and it is %v", key, text, value)
		}
	}
	for key := range documented {
		if _, ok := there[key]; !ok {
			t.Errorf("the page has %s, which is no setting", key)
		}
	}
}

// settings collects the settings below v.
func settings(v reflect.Value, prefix string, into map[string]reflect.Value) {
	for i := range v.NumField() {
		f, key := v.Field(i), prefix+keyOf(v.Type().Field(i))
		_, text := reflect.New(f.Type()).Interface().(encoding.TextUnmarshaler)
		switch {
		case key == "connections", key == "message_extension", key == extensionKey+"words":
		case f.Kind() == reflect.Pointer && !f.IsNil() && f.Elem().Kind() == reflect.Struct:
			settings(f.Elem(), key+".", into)
		case f.Kind() == reflect.Struct && !text:
			settings(f, key+".", into)
		default:
			into[key] = f
		}
	}
}

// same compares a default with its text on the page.
func same(v reflect.Value, text string) bool {
	switch value := v.Interface().(type) {
	case time.Duration:
		d, err := time.ParseDuration(text)
		return err == nil && d == value
	case *bool:
		return text == "true" || text == "false" // nil means one of them
	case []string:
		return text == fmt.Sprint(value)
	default:
		return text == strings.TrimPrefix(fmt.Sprint(value), "[redacted]")
	}
}
