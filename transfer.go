package relay

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/wire"
)

// transfer is the second stage of a request: its body comes in, of at most that
// many bytes besides a proof.
func transfer(w http.ResponseWriter, r *http.Request, q *request, maxBodyBytes int64) error {
	limit, most := maxBodyBytes+wire.MaxProofBytes, maxBodyBytes
	switch q.route.Endpoint {
	case wire.RelayTxn:
		limit, most = wire.MaxFetchBytes, wire.MaxFetchBytes
	case wire.Receipts:
		limit, most = wire.MaxReceiptsBytes, wire.MaxReceiptsBytes
	case wire.Mailbox, wire.Leave:
		limit, most = wire.MaxClaimBytes, wire.MaxClaimBytes
	case wire.Relays:
		limit, most = wire.MaxRecordBytes, wire.MaxRecordBytes
	case wire.Policy:
		limit, most = wire.MaxPolicyBytes, wire.MaxPolicyBytes
	}
	body := body{share: q.memory, on: q.admission.on}
	err := body.read(w, r, limit)
	q.admission.used.Received = int64(len(body.bytes))
	if err != nil {
		return err
	}
	q.Content = body.bytes
	if int64(len(q.Content)) > most && !wire.HasProof(q.Content) {
		return tooLarge(most)
	}
	if len(q.Content) > 0 {
		return wire.CheckContentType(r.Header.Get("Content-Type"))
	}
	return nil
}

// A body has the bytes that were read of a request, and their share of the memory.
type body struct {
	*share
	bytes []byte
	on    *connection // or nil
}

// read reads the whole body, at most limit bytes. It takes memory only as the
// body arrives: a size that is only announced costs nothing. When it returns
// the transfer can't be cut off any more.
func (b *body) read(w http.ResponseWriter, r *http.Request, limit int64) error {
	if r.Body == nil {
		return nil
	}
	if r.ContentLength > limit {
		return tooLarge(limit)
	}
	err := b.readAll(http.MaxBytesReader(w, r.Body, limit), r.ContentLength, limit)
	if b.setCut(nil) {
		return errNoMemory
	}
	if cap(b.bytes) > len(b.bytes)+len(b.bytes)/8 {
		b.bytes = bytes.Clone(b.bytes) // it may be kept for long
	}
	return err
}

func (b *body) readAll(in io.Reader, announced, limit int64) error {
	b.bytes = make([]byte, 0, firstRead)
	for {
		n, err := in.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		b.on.use(n + n/aroundBody)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return readError(err, limit)
		}
		if len(b.bytes) == cap(b.bytes) && !b.makeRoom(announced, limit) {
			return errNoMemory
		}
	}
}

// makeRoom makes room for twice as much, or for just as much as was announced if an eighth
// of it has come: each step leaves memory behind.
func (b *body) makeRoom(announced, limit int64) bool {
	size := min(2*int64(cap(b.bytes)), limit+1)
	if announced >= 0 && size >= announced/4 {
		size = announced + 1 // one more, to read the end
	}
	size = max(size, int64(cap(b.bytes))+1)
	if !b.set(size, true) {
		return false
	}
	grown := make([]byte, len(b.bytes), size)
	copy(grown, b.bytes)
	b.bytes = grown
	return true
}

// readError says that a body that didn't come whole may be sent again.
func readError(err error, limit int64) error {
	if errors.As(err, new(*http.MaxBytesError)) {
		return tooLarge(limit)
	}
	return &wire.Error{
		Status: http.StatusRequestTimeout, Code: spec.ErrorUnknown,
		Message: "the body could not be read to its end",
	}
}
