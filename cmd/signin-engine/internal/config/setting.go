package config

import (
	"encoding"
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
)

// Where a setting comes from.
const (
	FromDefault = "default"
	FromCloud   = "cloud" // preset by the setting cloud
	FromFile    = "file"
	FromEnv     = "environment"
	FromFlag    = "flag"
)

// Setting is a setting with its present value.
type Setting struct {
	Key     string `json:"key"` // with an index for a connection: connections[0].name
	Value   string `json:"value"`
	Default string `json:"default"`
	From    string `json:"from"`
	Env     string `json:"env,omitempty"` // "" = can only be set in the file
}

// Settings lists every setting, in the order of the file, with its secrets
// hidden. Its errors are those of [Load].
func Settings(src Source) ([]Setting, error) {
	cfg, from, err := load(src)
	if err != nil {
		return nil, err
	}
	var all, defaults []Setting
	values(reflect.ValueOf(cfg), "", &all)
	values(reflect.ValueOf(Default()), "", &defaults)
	usual := map[string]string{}
	for _, s := range defaults {
		usual[s.Key] = s.Value
	}
	for i := range all {
		s := &all[i]
		s.Default, s.From = usual[s.Key], origin(s, from)
		if s.From == FromDefault && s.Value != usual[s.Key] && !strings.HasPrefix(s.Key, extensionKey) {
			s.From = FromCloud
		}
	}
	return all, nil
}

// origin returns where a setting was set. Connections can be set in the file
// only.
func origin(s *Setting, from map[string]string) string {
	where, ok := from[s.Key]
	switch {
	case ok:
		return where
	case strings.Contains(s.Key, "[") && s.Value != "":
		return FromFile
	case s.Key == "client_secret" && s.Value != "":
		return "client_secret_file"
	default:
		return FromDefault
	}
}

// values appends the settings below v.
func values(v reflect.Value, prefix string, into *[]Setting) {
	for i := range v.NumField() {
		f, key := v.Field(i), prefix+keyOf(v.Type().Field(i))
		_, text := reflect.New(f.Type()).Interface().(encoding.TextUnmarshaler)
		switch {
		case key == extensionKey+"words":
		case f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.Struct:
			if !f.IsNil() {
				values(f.Elem(), key+".", into)
			}
		case f.Kind() == reflect.Struct && !text:
			values(f, key+".", into)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			for n := range f.Len() {
				values(f.Index(n), key+"["+strconv.Itoa(n)+"].", into)
			}
		default:
			s := Setting{Key: key, Value: valueText(f)}
			if !strings.Contains(key, "[") {
				s.Env = EnvName(key)
			}
			*into = append(*into, s)
		}
	}
}

// valueText formats a value. Of a secret, or an address that contains a password,
// it says only that it is set.
func valueText(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	if list, ok := v.Interface().([]string); ok {
		return userInfo.ReplaceAllString(strings.Join(list, ","), "//[redacted]@")
	}
	text := fmt.Sprint(v.Interface())
	if u, err := url.Parse(text); err == nil && u.User != nil || err != nil && strings.Contains(text, "@") {
		return "[redacted]"
	}
	return text
}
