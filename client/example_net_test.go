package client_test

import (
	"net/http"
	"net/http/httptest"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store/memory"
)

// exampleRelay starts a relay for the examples.
func exampleRelay(name spec.ServerName) (address string, stop func()) {
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: name, Store: mail})
	check(err)
	address, stopWeb := exampleServer(server)
	return address, func() {
		stopWeb()
		check(server.Close())
		check(mail.Close())
	}
}

func exampleServer(handler http.Handler) (address string, stop func()) {
	web := httptest.NewServer(handler)
	return web.Listener.Addr().String(), web.Close
}

// check is for examples only.
func check(err error) {
	if err != nil {
		panic(err)
	}
}
