package dendrite_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/examples/dendrite"
	"github.com/matrixrelay/relay/store/memory"
)

func Example() {
	// What the homeserver has already.
	root, federation := dendrite.NewFederationRouter()
	federation.HandleFunc("/v1/version", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"server":{"name":"Dendrite"}}`)
	}).Methods(http.MethodGet)

	// The relay. A real one is given the homeserver's key ring as Keys, and
	// keeps its mail in SQLite, which is the default.
	mail := memory.New(memory.Options{})
	server, err := relay.New(relay.Config{ServerName: "example.org", Store: mail})
	if err != nil {
		log.Fatal(err)
	}
	dendrite.Mount(federation, server)

	web := httptest.NewServer(root)
	for _, path := range []string{"/v1/version", "/v1/relay_txn/@user:example.com"} {
		response, err := http.Get(web.URL + dendrite.FederationPrefix + path)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			log.Fatal(err)
		}
		_ = response.Body.Close() // it is read
		fmt.Println(response.StatusCode, string(body))
	}

	// In this order: no requests, then no relay, then no store.
	web.Close()
	if err := server.Close(); err != nil {
		log.Fatal(err)
	}
	if err := mail.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 200 {"server":{"name":"Dendrite"}}
	// 401 {"errcode":"M_UNAUTHORIZED","error":"the request has no X-Matrix authorization"}
}
