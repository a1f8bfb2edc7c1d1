// Package wire is the protocol between relays and nodes, for both ends.
//
// # The flow
//
// Node A (the origin) cannot reach node B (the destination), so it leaves the
// transaction at a relay that acts for B. All requests carry an X-Matrix
// signature of the server that makes them, over the method, the request URI,
// both server names and the body.
//
//	A ── PUT /_matrix/federation/v1/send_relay/{txnID}/{userID} ──▶ relay
//	     signed by A; body {"origin": A, "origin_server_ts": ..., "pdus": [...], "edus": [...]}
//	     200 {}     the relay has it on disk
//
//	B ── GET /_matrix/federation/v1/relay_txn/{userID} ──▶ relay
//	     signed by B; body {"entry_id": 0}
//	     200 {"transaction": {...}, "entry_id": 7, "entries_queued": true}
//
//	B ── GET .../relay_txn/{userID}, body {"entry_id": 7} ──▶ relay
//	     7 is acknowledged and gone; the answer is the next, or
//	     200 {"transaction": {"origin":"","origin_server_ts":0,"pdus":null}, "entries_queued": false}
//
// Only the server name in userID matters: the mailbox belongs to it, and nodes
// make up the rest. entries_queued means "this answer holds a transaction";
// an entry is acknowledged by asking for the next, and by nothing else.
//
// The endpoints come from Dendrite's P2P work (there is no MSC for them) and
// package fclient of gomatrixserverlib speaks them.
package wire

// Bounds of accepted requests. Those on PDUs and EDUs are the Matrix
// specification's for a transaction.
const (
	MaxPDUs = 50
	MaxEDUs = 100

	// MaxDepth is how deep the JSON of a body may nest.
	MaxDepth = 128

	// MaxWidth is how many members an object or a list in it may have: more
	// than fit the 64 KiB of an event.
	MaxWidth = 32 << 10

	// MaxTransactionIDBytes bounds a transaction ID, unescaped.
	MaxTransactionIDBytes = 255

	// maxSignatures bounds the X-Matrix headers that are looked at in one
	// request. A server signs with one key, two while it changes them.
	maxSignatures = 4
)
