package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// Source says where settings are read from.
type Source struct {
	File    string         // path of a YAML file; "" = none
	Environ []string       // KEY=value, as os.Environ returns them
	Flags   *pflag.FlagSet // flags that [FlagKey] knows; nil = none
}

// Error is one problem of the settings. It names the key and never repeats a
// secret.
type Error struct {
	Key     string
	Problem string
}

// Error returns "key: problem".
func (e *Error) Error() string { return e.Key + ": " + e.Problem }

// Errors are all problems of the settings.
type Errors []*Error

// Error returns one line per problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

func (e *Errors) add(key, format string, args ...any) {
	text := userInfo.ReplaceAllString(fmt.Sprintf(format, args...), "//[redacted]@")
	*e = append(*e, &Error{Key: key, Problem: text})
}

// userInfo matches what precedes the host of an address. It may contain a
// password.
var userInfo = regexp.MustCompile(`//[^\s",]*@`)

// about reports whether there is a problem with a key.
func (e Errors) about(key string) bool {
	return slices.ContainsFunc(e, func(one *Error) bool { return one.Key == key })
}

// err returns e as an error, nil if it is empty.
func (e Errors) err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// Load reads the settings. It reports unknown keys and values of the wrong kind
// as [Errors]. [Config.Check] checks the rest.
func Load(src Source) (Config, error) {
	cfg, _, err := load(src)
	return cfg, err
}

// LoadChecked is [Load] followed by [Config.Check]. It reports the problems of
// both at once, except that a key which could not be read is not checked.
func LoadChecked(src Source) (Config, error) {
	cfg, _, err := load(src)
	var unread, found Errors
	if err != nil && (!errors.As(err, &unread) || unread.about(configFile)) {
		return cfg, err
	}
	errors.As(cfg.Check(), &found)
	found = slices.DeleteFunc(found, func(one *Error) bool { return unread.about(one.Key) })
	return cfg, append(unread, found...).err()
}

// configFile is the key of problems with the file as a whole.
const configFile = "--config"

// load also returns where each setting was set. A key that is not in the map has
// its default.
func load(src Source) (Config, map[string]string, error) {
	ko := koanf.New(".")
	from := map[string]string{}
	var problems Errors
	if src.File != "" {
		file, err := readYAML(src.File)
		if err != nil {
			return Config{}, nil, err
		}
		if err = ko.Load(confmap.Provider(file, ""), nil); err != nil {
			return Config{}, nil, fmt.Errorf("%s: %w", src.File, err)
		}
		for _, key := range ko.Keys() {
			from[key] = FromFile
		}
	}
	if err := ko.Load(environment(src.Environ, from, &problems), nil); err != nil {
		return Config{}, nil, fmt.Errorf("environment: %w", err)
	}
	if src.Flags != nil {
		flags := posflag.ProviderWithFlag(src.Flags, ".", ko, func(f *pflag.Flag) (string, any) {
			if key, ok := FlagKey(f.Name); ok && f.Changed {
				from[key] = FromFlag
				return key, posflag.FlagVal(src.Flags, f)
			}
			return "", nil
		})
		if err := ko.Load(flags, nil); err != nil {
			return Config{}, nil, fmt.Errorf("flags: %w", err)
		}
	}
	cfg := Default()
	problems = append(problems, decode(ko, &cfg)...)
	cfg.preset(ko.Exists)
	problems = append(problems, cfg.readStore(ko.Exists)...)
	if cfg.ClientSecretFile != "" {
		problems = append(problems, cfg.readSecret()...)
	}
	return cfg, from, problems.err()
}

// readYAML reads a file. A key without a value counts as not set.
func readYAML(path string) (map[string]any, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, Errors{{Key: configFile, Problem: err.Error()}}
	}
	var m, more map[string]any
	file := yaml.NewDecoder(bytes.NewReader(b))
	if err = file.Decode(&m); err == nil {
		if file.Decode(&more) != io.EOF { //nolint:errorlint // returned unwrapped
			err = errors.New("yaml: a second document begins with ---, and only one is read")
		}
	}
	if err != nil && !errors.Is(err, io.EOF) { // an empty file sets nothing
		return nil, Errors{{Key: configFile, Problem: path + ": " + yamlProblem(err)}}
	}
	dropNil(m)
	return m, nil
}

// quoted matches the parts of the parser's messages that repeat a value, since an
// unquoted value may be a secret.
var quoted = regexp.MustCompile("(anchor )'[^']*'|(invalid map key: ).*|`.*`")

// yamlProblem is a message of the parser without the values in it.
func yamlProblem(err error) string {
	text := quoted.ReplaceAllString(err.Error(), "$1$2[redacted]")
	if text != err.Error() {
		text += ": a value that begins with * & ! or { has to be in quotes"
	}
	return strings.ReplaceAll(text, "\n", " ")
}

func dropNil(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]any:
			dropNil(v)
		}
	}
}

// commandEnv lists the variables of the command line that are not settings.
var commandEnv = [...]string{EnvPrefix + "CONFIG"}

// environment maps each variable, for example
// SIGNIN_ENGINE_POLICY_DUPLICATE_WAIT, to its key. A name without a key is a
// problem, unless Kubernetes made it: a Service called signin-engine puts
// SIGNIN_ENGINE_SERVICE_HOST and others into every pod.
func environment(environ []string, from map[string]string, problems *Errors) koanf.Provider {
	known, names := map[string]string{}, []string{}
	for _, key := range keys(reflect.TypeFor[Config](), "") {
		known[EnvName(key)] = key
		names = append(names, EnvName(key))
	}
	return env.Provider(".", env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			key, ok := known[name]
			value = strings.TrimSpace(value) // a file of variables may have Windows line ends
			switch {
			case value == "", !ok && (slices.Contains(commandEnv[:], name) || kubernetes(name)):
				return "", nil
			case strings.HasPrefix(name, EnvName("connections")):
				problems.add(name, "connections can be set in the file only")
				return "", nil
			case !ok:
				problems.add(name, "unknown environment variable%s", didYouMean(operator.SpeltLike(name, names)))
				return "", nil
			}
			from[key] = FromEnv
			switch key {
			case "service_urls", "agentic_callers", extensionKey + "provider.scopes":
				return key, strings.FieldsFunc(value, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
			}
			return key, value
		},
	})
}

func kubernetes(name string) bool {
	rest := strings.TrimPrefix(name, EnvPrefix)
	return rest == "PORT" || strings.HasPrefix(rest, "PORT_") ||
		rest == "SERVICE_HOST" || rest == "SERVICE_PORT" || strings.HasPrefix(rest, "SERVICE_PORT_")
}

// keys lists the settings of t that a single value can set.
func keys(t reflect.Type, prefix string) []string {
	var all []string
	for f := range t.Fields() {
		key := prefix + keyOf(f)
		switch {
		case f.Name == "Connections":
		case f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct:
			all = append(all, keys(f.Type.Elem(), key+".")...)
		case f.Type.Kind() == reflect.Struct && !isText(f.Type):
			all = append(all, keys(f.Type, key+".")...)
		default:
			all = append(all, key)
		}
	}
	return all
}

func keyOf(f reflect.StructField) string {
	if tag := f.Tag.Get("koanf"); tag != "" {
		return tag
	}
	return snake(f.Name)
}

// snake converts a Go name to a key: DuplicateWait to duplicate_wait, GroupSSO to
// group_sso.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 &&
			(unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]) && unicode.IsUpper(runes[i-1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// decode fills cfg and reports what does not fit.
func decode(ko *koanf.Koanf, cfg *Config) Errors {
	var problems Errors
	unknown(ko.Raw(), reflect.TypeFor[Config](), "", &problems)
	explain(ko.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		DecodeHook:       mapstructure.ComposeDecodeHookFunc(exact, durations, mapstructure.TextUnmarshallerHookFunc()),
		WeaklyTypedInput: true, // the environment has only strings
		MatchName:        func(key, field string) bool { return key == snake(field) },
	}}), &problems)
	slices.SortStableFunc(problems, func(a, b *Error) int { return strings.Compare(a.Key, b.Key) })
	return problems
}

// unknown reports every key of v that t does not have. The decoder alone would
// not do: it reports only keys in the parts that it could decode, and it would
// accept DuplicateWait for duplicate_wait.
func unknown(v any, t reflect.Type, path string, problems *Errors) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case map[string]any:
		if isText(t) { // the decoder would take its members for keys
			key := strings.TrimSuffix(path, ".")
			problems.add(key, "has the wrong kind of value: it is %s", kindOf(key))
			return
		}
		if t.Kind() != reflect.Struct {
			return // the decoder reports it
		}
		fields := map[string]reflect.Type{}
		for f := range t.Fields() {
			fields[keyOf(f)] = f.Type
		}
		for key, inner := range v {
			if field, ok := fields[key]; ok {
				unknown(inner, field, path+key+".", problems)
				continue
			}
			problems.add(path+key, "unknown key%s", didYouMean(meant(path, key, slices.Sorted(maps.Keys(fields)))))
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return
		}
		for i, inner := range v {
			unknown(inner, t.Elem(), strings.TrimSuffix(path, ".")+"["+strconv.Itoa(i)+"].", problems)
		}
	}
}

// meant suggests keys that the user may have meant: a similar one in the same
// section, or one of the same name in another.
func meant(path, key string, beside []string) []string {
	near := operator.SpeltLike(key, beside)
	for i := range near {
		near[i] = path + near[i]
	}
	if len(near) > 0 {
		return near
	}
	for _, k := range keys(reflect.TypeFor[Config](), "") {
		if k[strings.LastIndexByte(k, '.')+1:] == key {
			near = append(near, k)
		}
	}
	return near
}

func didYouMean(near []string) string {
	if len(near) == 0 {
		return " (signin-engine config lists them)"
	}
	return ": did you mean " + strings.Join(near, " or ") + "?"
}

// isText reports whether a value of the type is written as one text.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// exact refuses values that the decoder would convert until they fit: 007 or true
// for a text, 1.9 for a whole number, one section for a list. A text passes for
// any type, since the environment has nothing else. The name of a variable is
// refused, since nobody replaces it by its value, and so are blanks as a secret.
func exact(from, to reflect.Type, data any) (any, error) {
	whole := from.Kind() >= reflect.Int && from.Kind() <= reflect.Int64
	scalar := from.Kind() >= reflect.Bool && from.Kind() <= reflect.Float64
	switch {
	case from.Kind() == reflect.String && variable.MatchString(reflect.ValueOf(data).String()):
		return nil, valueError("is the name of a variable, and only its name: each setting has a variable of its own (signin-engine config lists them)")
	case from.Kind() == reflect.String && to == reflect.TypeFor[tokensvc.Secret]() && isBlank(reflect.ValueOf(data).String()):
		return nil, valueError("has blanks only")
	case scalar && (isText(to) || to.Kind() == reflect.String):
		return nil, valueError("is a number, true or false as it is written: a text like that has to be in quotes")
	case scalar && from.Kind() != to.Kind() && !whole && to.Kind() <= reflect.Float64,
		whole && to.Kind() == reflect.Bool,
		from.Kind() == reflect.Map && to.Kind() == reflect.Slice:
		return nil, errors.New("another kind of value")
	}
	return data, nil
}

// isBlank reports whether a text that was written says nothing.
func isBlank(s string) bool { return s != "" && strings.TrimSpace(s) == "" }

// variable matches a text that a shell or a template should have replaced. It
// does not match $NAME, which may be a password.
var variable = regexp.MustCompile(`^\$\{[^}]*\}$|^\{\{.*\}\}$`)

// durations parses "3s". It refuses a bare number, which would mean nanoseconds.
func durations(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return data, nil
	}
	s := fmt.Sprint(data) // of a flag it is a duration
	if s == "0" {
		return time.Duration(0), nil
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return nil, valueError(strconv.Quote(s) + " is no duration such as 3s, 15m or 720h")
	case d > longest:
		return nil, valueError(fmt.Sprintf("%q is longer than ten years (%.0fh)", s, longest.Hours()))
	}
	return d, nil
}

// longest is more than any setting needs, and so little that no sum of settings is
// too long for a time.Duration, which holds 292 years.
const longest = 10 * 365 * 24 * time.Hour

// valueError says what is wrong with a value. It is shown to the user.
type valueError string

func (e valueError) Error() string { return string(e) }

// explain reports each leaf of a decoding error, which knows its key. It returns
// whether there was one.
func explain(err error, problems *Errors) bool {
	if err == nil {
		return false
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		found := false
		for _, e := range many.Unwrap() {
			found = explain(e, problems) || found
		}
		return found
	}
	cause := errors.Unwrap(err)
	de, ok := err.(*mapstructure.DecodeError) //nolint:errorlint // walks the tree itself
	if !ok {
		return explain(cause, problems)
	}
	if explain(cause, problems) {
		return true
	}
	var value valueError
	var parse *mapstructure.ParseError
	key := keyPath(de.Name())
	text := "has the wrong kind of value: it is " + kindOf(key)
	switch {
	case errors.As(cause, &value):
		text = value.Error()
	case errors.As(cause, &parse):
		text = "has a value that cannot be read: it is " + kindOf(key)
	}
	problems.add(key, "%s", text)
	return true
}

var index = regexp.MustCompile(`\[\d+\]`)

// kindOf describes what a key's value has to be.
func kindOf(key string) string {
	t := reflect.TypeFor[Config]()
	for part := range strings.SplitSeq(key, ".") {
		name := index.ReplaceAllString(part, "")
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			break
		}
		for f := range t.Fields() {
			if keyOf(f) == name {
				t = f.Type
				break
			}
		}
		if name != part && t.Kind() == reflect.Slice {
			t = t.Elem()
		}
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 3s, 15m or 720h"
	case isText(t) || t.Kind() == reflect.String:
		return "a text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Struct:
		return "a section with keys of its own"
	default:
		return "a whole number"
	}
}

// keyPath converts "policy.DuplicateWait" to "policy.duplicate_wait".
func keyPath(path string) string {
	parts := strings.Split(path, ".")
	for i, p := range parts {
		parts[i] = snake(p)
	}
	return strings.Join(parts, ".")
}

// EnvName returns the name of a key's environment variable.
func EnvName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// FlagKey returns the key that a flag sets, and whether it sets one.
func FlagKey(flag string) (string, bool) {
	switch flag {
	case "app-id", "tenant-id", "cloud", "client-secret-file", "outbound-auth", "listen", "store", "token-service-url", "login-url",
		"inbound-auth", "operator", "auto-migrate", "store-file", "wait-for-store":
		return strings.ReplaceAll(flag, "-", "_"), true
	case "service-url":
		return "service_urls", true
	case "log-level", "log-format":
		return strings.ReplaceAll(flag, "-", "."), true
	}
	return "", false
}
