package relay_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// A homeserver mounts a relay beside its own federation routes.
func Example() {
	mail := memory.New(memory.Options{}) // leave Config.Store out, and it is a SQLite file
	server, err := relay.New(relay.Config{ServerName: "example.org", Store: mail})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux() // the homeserver's
	mux.Handle("/_matrix/federation/v1/send_relay/", server)
	mux.Handle("/_matrix/federation/v1/relay_txn/", server)
	mux.Handle(wire.Unstable, server)

	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/_matrix/federation/v1/relay_txn/@user:example.com", nil))
	fmt.Println(w.Code, w.Body)

	// First the server, which waits for the requests under way, then its store.
	if err := server.Close(); err != nil {
		fmt.Println(err)
	}
	if err := mail.Close(); err != nil {
		fmt.Println(err)
	}
	// Output: 401 {"errcode":"M_UNAUTHORIZED","error":"the request has no X-Matrix authorization"}
}
