module github.com/signin-engine/signin-engine

go 1.26
