package boltstore

// WithTable sets how many bytes are kept in front of the tree.
func WithTable(n int) Option { return func(o *options) { o.table = n } }
