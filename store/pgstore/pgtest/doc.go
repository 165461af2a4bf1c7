// Package pgtest gives tests a real Postgres.
//
// [Start] returns an address with a schema of the test's own. It uses the server that
// SIGNIN_TEST_POSTGRES names. If that is unset, it starts a throw-away cluster from the
// installed binaries. A package with many tests calls [Main] from its TestMain, so that
// they share one cluster. [NewCluster] is for tests that stop the server.
//
// Without a server and without binaries a test fails; it is not skipped. Only [Long]
// tests are left out, and only with -short.
package pgtest
