// Package relaytest is for the tests of programs that embed the relay or its
// client: servers with keys, a network in memory, relays and homeservers on it.
//
//	network := relaytest.NewNetwork()
//	defer network.Close()
//	alice, bob := relaytest.NewNode("alice"), relaytest.NewNode("bob")
//	box, err := network.AddRelay(relay.Config{ServerName: "relay.example"})
//
// The network is an http.RoundTripper for URLs such as matrix://server/path, so
// it goes where your own transport goes: into client.CallerConfig.Transport, or into
// fclient.WithTransport, as Node.Federation does. Your homeserver is an
// http.Handler: Network.Set puts it on the network under its name. Where the
// test needs none of its own, Network.AddHomeserver is one that takes transactions
// and remembers them.
//
// # Names and keys
//
// A node that NewNode makes has its key for a name, as in P2P networks; one
// that NewNamed makes has an ordinary name. Both are the same at each run. Keys
// verifies signatures of both.
//
// # Trouble
//
// A Host has a latency, may hang, and may lose requests and answers: Lossy says
// which, by a seed. SetOffline takes a server off the network in both
// directions, SetLink cuts a link between two. Either breaks the requests under
// way, also those that wait for mail at a relay.
//
// # Time
//
// A request is served in the goroutine that makes it, and latencies are timers.
// So all of it works in a bubble of testing/synctest, where a month passes in
// no time: make the network in the bubble, and close it there.
//
// Tests that need real connections have Server, a web server on loopback whose
// Close doesn't wait for requests that wait for mail.
package relaytest
