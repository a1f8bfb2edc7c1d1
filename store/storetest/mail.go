package storetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

// The servers of most tests.
const (
	here   spec.ServerName = "here.example"
	there  spec.ServerName = "there.example"
	origin spec.ServerName = "origin.example"
)

// letter returns the nth mail for a destination, which differs from all others.
func letter(to spec.ServerName, n int) store.Mail {
	name := fmt.Sprintf("%s %d", to, n)
	return store.Mail{
		Destination:   to,
		Origin:        origin,
		TransactionID: gomatrixserverlib.TransactionID(name),
		Digest:        sha256.Sum256([]byte(name)),
		Body:          []byte("the body of " + name),
		Proof:         []byte("the proof of " + name),
	}
}

// letters returns n letters, from the first on.
func letters(to spec.ServerName, n int) []store.Mail {
	mails := make([]store.Mail, n)
	for i := range mails {
		mails[i] = letter(to, i+1)
	}
	return mails
}

// size is the Size of a sized letter.
const size = 1000

// sized returns a letter of a known size.
func sized(to spec.ServerName, n int) store.Mail {
	mail := letter(to, n)
	mail.Body = nil
	mail.Body = bytes.Repeat([]byte{'b'}, size-int(mail.Size()))
	return mail
}

// compare says how the entries differ from the mails that they should be, in
// this order and with growing IDs.
func compare(want []store.Mail, got []store.Entry) error {
	last := int64(0)
	for i := range min(len(want), len(got)) {
		if err := differ(&want[i], &got[i].Mail); err != nil {
			return fmt.Errorf("entry %d of %d: %w", i+1, len(want), err)
		}
		if id := got[i].ID; id <= last || id > store.MaxID {
			return fmt.Errorf("entry %d of %d has the ID %d after %d", i+1, len(want), id, last)
		}
		last = got[i].ID
	}
	if len(want) != len(got) {
		return fmt.Errorf("there should be %d entries, there are %d", len(want), len(got))
	}
	return nil
}

// differ names the first field in which two mails differ. It doesn't print
// bodies, which may be large.
func differ(want, got *store.Mail) error {
	switch {
	case want.Destination != got.Destination:
		return fmt.Errorf("Destination: want %q, got %q", want.Destination, got.Destination)
	case want.Origin != got.Origin:
		return fmt.Errorf("Origin: want %q, got %q", want.Origin, got.Origin)
	case want.TransactionID != got.TransactionID:
		return fmt.Errorf("TransactionID: want %q, got %q", want.TransactionID, got.TransactionID)
	case want.Digest != got.Digest:
		return fmt.Errorf("%q: Digest: want %x, got %x", want.TransactionID, want.Digest, got.Digest)
	case !bytes.Equal(want.Body, got.Body):
		return fmt.Errorf("%q: Body: want %d bytes, got %d other ones", want.TransactionID, len(want.Body), len(got.Body))
	case !bytes.Equal(want.Proof, got.Proof):
		return fmt.Errorf("%q: Proof: want %d bytes, got %d other ones", want.TransactionID, len(want.Proof), len(got.Proof))
	case !isLeftOf(want.Lifetime, got.Lifetime):
		return fmt.Errorf("%q: Lifetime: of %v, %v should be left", want.TransactionID, want.Lifetime, got.Lifetime)
	}
	return nil
}

// isLeftOf reports whether left can be left of a lifetime.
func isLeftOf(lifetime, left time.Duration) bool {
	if lifetime <= 0 {
		return left == 0
	}
	return left >= time.Millisecond && left <= max(lifetime, lifetime.Truncate(time.Millisecond)+time.Millisecond)
}

func ids(entries []store.Entry) []int64 {
	ids := make([]int64, len(entries))
	for i, entry := range entries {
		ids[i] = entry.ID
	}
	return ids
}

// bytesOf returns the Size of mails together.
func bytesOf(mails ...store.Mail) int64 {
	sum := int64(0)
	for i := range mails {
		sum += mails[i].Size()
	}
	return sum
}
