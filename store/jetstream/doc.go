// Package jetstream keeps mail in a stream of NATS JetStream: the store of
// relays that run as several processes, on servers that keep several copies.
// It needs NATS 2.12 or later.
//
// # The content of the stream
//
// There is one stream, so there is one order and one leader. Each of its
// subjects has one message, and a new one replaces it:
//
//	RELAY.clock              where the store's clock stands, and the largest ID ever given
//	RELAY.box.NAME           a mailbox: its counts, and its last entries
//	RELAY.page.BOX.ID        the entries before those, 32 in each page
//	RELAY.share.BOX.ORIGIN   the share of one origin in a mailbox
//	RELAY.mail.KEY           mail; a copy of it has the same key
//	RELAY.part.KEY.N         the parts of it that didn't fit into one message
//	RELAY.note.KEY           a note
//	RELAY.noted              changed with every note
//	RELAY.damage.BOX.ID.N    for a day: why an entry was set aside
//
// Entries of a mailbox have places that follow each other. IDs are the same
// numbers, but go on after store.FirstID at each opening; the record of the mailbox
// keeps the last 256 jumps, after which IDs just go on. So a mailbox is read by
// looking up subjects, which costs the same however deep it is, and an entry that is
// missing is noticed.
//
// # Writing
//
// Every change is one atomic batch of JetStream: all of its messages are stored
// and become visible together, or none. Each record in it is accepted only if
// its subject still has the message that the change was made from, and mail only
// if its subject has none. That makes the limits exact, entries visible in the
// order of their IDs and copies recognised, even while others write and however old
// the records are that a process has read. Of two batches that are made at once and
// change the same record one is refused, whole; it is then made anew from the
// records that the leader of the stream has.
//
// A server that is alone completes a batch that it was killed in, and replicas
// do so together. A single replica in a cluster doesn't (seen with NATS 2.15.2):
// it may keep the beginning of a batch only. A Put that is repeated notices that
// its mail is in no mailbox and stores it anew, but the counts may stay wrong. So
// a cluster should keep three replicas, which is the default.
//
// One goroutine in each process commits the calls that have queued up while its last
// batch was on its way, so that many calls share one acknowledgement. If that gets
// lost with a server or a connection, the batch is repeated; the first one and
// its repetition can't both succeed, and mail has the mark of its Put, so that
// the Put knows whether it has stored the mail.
//
// The leader does one batch after the other, so several processes store hardly
// more together than one would, and less if they put into the same mailboxes at
// the same time: then each commit makes those of the others be done again, and
// some wait for seconds where there are eight or more. Processes whose mail is for
// different mailboxes have no record in common.
//
// # The limits of the whole store
//
// Each process counts the whole store from the mailboxes that it follows. Mail that
// other processes store at the same moment may exceed those limits; limits of a
// mailbox, and of an origin in it, are never exceeded.
//
// # Copies
//
// When an entry is removed, its mail is replaced by an empty message that the
// server drops after the retention; until then the subject isn't free. Each process
// lists the ones that it has stored, and has those end in a second that are too many
// (Options.MaxCopies), unless their subjects have other messages since. The
// duplicate window of the stream isn't used: after a restart it knows only
// messages that are still there.
//
// # Reading and waiting
//
// The record of a mailbox is read from the leader, mail from any server that has
// it. A server that was cut off may for a moment believe that it still leads,
// so nothing is passed over because one server doesn't have it: reading fails
// instead, after Options.Timeout. An entry is set aside only by a batch that the
// leader accepts if it can't read it either; its messages stay in the stream.
//
// A consumer in each process is told of every mailbox that changes. That wakes
// receivers that wait, and lists the destinations: those of another process are
// known a moment after it has stored their mail.
//
// # Expiry
//
// Expired mail isn't returned, even while the stream has it. Each process removes it
// now and then, up to 256 messages in a batch. Lifetimes count by the store's clock,
// the retention of copies by the clocks of the NATS servers.
//
// # Durability
//
// Put returns nil once the leader has stored the batch and, if the stream has
// replicas, a quorum has. So mail survives the crash of any server process.
//
// A power cut is another matter. By default a NATS server acknowledges before its
// disk has the data, and brings it there every two minutes (sync_interval). A
// server that keeps the stream alone may lose that much (2.15.2 syncs a batch
// before, but doesn't promise to); a process that knew more notices when it next
// writes, and goes on with the rest. With three replicas, the default in a
// cluster, the others have the data if one machine fails; if most fail at once it may
// be lost, and by NATS's documentation also, though extremely rarely, if one comes
// back without it and makes a majority with another that never had it. So give all
// servers "sync_interval: always". The store can't see whether they have that.
//
// # Room
//
// Removing mail writes, too. Of a stream that has a limit (Options.MaxBytes, the
// max_bytes of the stream) an eighth, at most 16 MiB, is kept for that: Put gives
// store.ErrFull before the server would refuse, and Ack still works. Near the limit
// the stream is measured before each batch. A server that has reached a limit
// of its own (max_file_store, the disk, the account) refuses even an Ack, and then
// only a higher limit helps. One that is alone then keeps the beginning of the
// batch during which it reached its limit (seen with NATS 2.15.2, which checks that
// limit before each message), and has the rest only when it's restarted. A stream
// with a limit has its room set aside and is refused whole batches, so give it one.
//
// A mail takes about 400 bytes besides its own; half of that stays until the
// retention is over.
//
// # Failures
//
// While the servers can't be reached, calls try again (Options.Timeout). Once the stream was
// deleted or the connection is closed, which the client does when no server lets it in any
// more, they answer store.ErrReopen, and store.Failing says why. Opening makes a stream anew.
//
// # Bounds
//
// Mail may have as many bytes as 512 messages of the server's max_payload (or
// the stream's max_msg_size), at most 1 MiB each: servers that allow 32 KiB take
// the 10 MiB that a relay does. Server names may have 512 bytes; a batch 900
// messages, or fewer if the server says so.
//
// Each process remembers the name and a few numbers of every mailbox that has
// something, about 200 bytes, and up to 16,384 records of mailboxes as
// they are in the stream, of at most 2 KiB each. Calls that have to store something
// wait in a queue of 1,024, beside the 256 (or 8 MiB and one more) in the batch that
// is on its way.
//
// # Damage
//
// If the disk has changed some bytes of a block, it's up to the server how it goes on:
// it may give up everything that it had after those bytes. Mail that is
// gone or has changed is set aside, and so are the 32 entries of a page; they stay
// counted in the shares of their origins, until these are counted anew. If the record
// of a mailbox can't be read, the mailbox fails until it's repaired: to go on without
// the record would lose the entries that it lists.
package jetstream
