package pgtest

// Throwaway starts a throw-away cluster for a program that is no test, and
// returns its address and what ends it.
func Throwaway() (dsn string, stop func() error, err error) {
	c, err := startCluster()
	if err != nil {
		return "", nil, err
	}
	return c.DSN(), c.remove, nil
}
