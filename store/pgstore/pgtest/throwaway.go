package pgtest

// Throwaway starts a throw-away cluster for a program that is not a test. It returns the
// cluster's address and a func that removes the cluster.
func Throwaway() (dsn string, stop func() error, err error) {
	c, err := startCluster()
	if err != nil {
		return "", nil, err
	}
	return c.DSN(), c.remove, nil
}
