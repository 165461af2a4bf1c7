// Package pgtest gives tests a real Postgres.
//
// [Start] hands out an address with a schema of its own. It uses the server
// that SIGNIN_TEST_POSTGRES names; where that is unset it starts a throw-away
// cluster from the installed binaries. A package with many tests calls [Main]
// from its TestMain, so that they share one cluster. [NewCluster] is for tests
// that take the server down.
//
// Nothing is skipped: without a server and without binaries a test fails.
package pgtest
