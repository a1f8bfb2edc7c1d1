package relay_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/store/memory"
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
	server.Mount(mux)

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
