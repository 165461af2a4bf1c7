package emulator

// bounded is a map of at most limit keys. A new key replaces the oldest one.
type bounded[V any] struct {
	values map[string]V
	order  []string // ring of keys in order of insertion
	next   int
	limit  int
}

func newBounded[V any](limit int) *bounded[V] {
	return &bounded[V]{values: make(map[string]V), limit: limit}
}

func (b *bounded[V]) get(key string) (V, bool) {
	v, ok := b.values[key]
	return v, ok
}

func (b *bounded[V]) put(key string, v V) {
	_, known := b.values[key]
	b.values[key] = v
	switch {
	case known:
	case len(b.order) < b.limit:
		b.order = append(b.order, key)
	default:
		delete(b.values, b.order[b.next])
		b.order[b.next] = key
		b.next = (b.next + 1) % b.limit
	}
}

func (b *bounded[V]) clear() {
	clear(b.values)
	b.order, b.next = nil, 0
}

// ring keeps the last limit values.
type ring[V any] struct {
	values []V
	next   int
	limit  int
}

func (r *ring[V]) add(v V) {
	switch {
	case r.limit <= 0:
	case len(r.values) < r.limit:
		r.values = append(r.values, v)
	default:
		r.values[r.next] = v
		r.next = (r.next + 1) % r.limit
	}
}

// all returns a copy of the values, oldest first.
func (r *ring[V]) all() []V {
	out := make([]V, 0, len(r.values))
	out = append(out, r.values[r.next:]...)
	return append(out, r.values[:r.next]...)
}

func (r *ring[V]) clear() { r.values, r.next = nil, 0 }
