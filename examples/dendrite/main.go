// Dendrite is a whole Dendrite of a P2P network, with the relay and the client of this
// project in it, by package dendrite, or with its own, for comparison. node.go is the
// code that a maintainer of Dendrite would write; its tests run several of these.
//
//	go run . -dir alice -key alice -network sockets
//	go run . -dir bob -key bob -network sockets -relays bob=carol
//	go run . -dir carol -key carol -network sockets -relaying
//
// A server listens at a socket in the folder of the network, where others find it by
// its name, which is its key. Clients find it there, too.
package main

import (
	"errors"
	"flag"
	"log"
	"strings"

	"github.com/matrix-org/dendrite/setup/base"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

func main() {
	o := options{relays: make(map[spec.ServerName][]spec.ServerName)}
	flag.StringVar(&o.dir, "dir", "", "the folder of the server's databases")
	flag.StringVar(&o.seed, "key", "", "what the server's key is made of")
	flag.StringVar(&o.network, "network", "", "the folder of the network's sockets")
	flag.BoolVar(&o.theirs, "theirs", false, "use the relay and the retriever of Dendrite itself")
	flag.BoolVar(&o.relaying, "relaying", false, "be a relay for others")
	flag.BoolVar(&o.requireProof, "require-proof", false, "refuse mail without a proof of its origin")
	flag.Func("relays", "SERVER=RELAY,...: a server and its relays, by what their keys are made of", func(value string) error {
		server, relays, ok := strings.Cut(value, "=")
		if !ok {
			return errors.New("there is no =")
		}
		for relay := range strings.SplitSeq(relays, ",") {
			o.relays[nameOf(server)] = append(o.relays[nameOf(server)], nameOf(relay))
		}
		return nil
	})
	flag.Parse()
	n, err := start(o)
	if err != nil {
		log.Fatal(err)
	}
	base.WaitForShutdown(n.process)
	if err := n.close(); err != nil {
		log.Fatal(err)
	}
}
