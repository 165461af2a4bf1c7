package pgstore

import "io/fs"

// WithMigrations lets a program know other steps of the schema.
func WithMigrations(files fs.FS) Option { return func(o *options) { o.files = files } }

// Migrations are the steps that are embedded.
func Migrations() fs.FS { return migrations }
