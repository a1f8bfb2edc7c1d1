package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/matrixrelay/relay/internal/sleep"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/internal/trust"
)

const (
	// attemptTimeout is how long one request may take before it is made again.
	attemptTimeout = 3 * time.Second

	// maxReads is how many requests to read one call has under way at once.
	maxReads = 64

	// maxPart bounds a message of mail, also where the server allows more; headroom
	// is for the headers.
	maxPart, headroom = 1 << 20, 2 << 10
)

// batchHeader names the batch that a message is of.
const batchHeader = "Nats-Batch-Id"

// An engine speaks with the servers that keep one stream.
type engine struct {
	conn    *nats.Conn
	js      jetstream.JetStream
	stream  string
	prefix  string        // of requests to JetStream
	timeout time.Duration // for all attempts of a request together
	most    int           // bytes of a message with its headers, if the stream limits them
	owned   bool          // the connection is
	name    string        // the prefix of the names of this process's batches

	trust    *trust.Trust
	link     atomic.Pointer[link]
	watching sync.WaitGroup
	unwatch  context.CancelFunc
}

var errLinkLost = errors.New("the connection was lost")

// A link is a context that ends when the connection is lost, and with it the
// answers that requests wait for. The client itself lets them wait until their
// time is over.
type link struct {
	context.Context
	lose context.CancelFunc
}

func newEngine(o Options) (*engine, error) {
	e := &engine{conn: o.Conn, stream: o.Stream, timeout: o.Timeout, prefix: jetstream.DefaultAPIPrefix, name: nuid.Next(), trust: trust.New("jetstream", o.Logger)}
	var err error
	if e.conn == nil {
		e.owned = true
		if e.conn, err = nats.Connect(o.URL, append(o.reconnecting(), o.Connect...)...); err != nil {
			return nil, err
		}
	}
	e.relink()
	watching, cancel := context.WithCancel(context.Background())
	e.unwatch = cancel
	// Each has a channel of its own: the client takes a channel for closed, and sends it
	// nothing more, if there is something in it yet.
	lost, closed := e.conn.StatusChanged(nats.RECONNECTING), e.conn.StatusChanged(nats.CLOSED)
	e.watching.Go(func() { e.watch(watching, lost, closed) })
	if o.Domain != "" {
		e.prefix = "$JS." + o.Domain + ".API."
	}
	e.js, err = jetstream.NewWithAPIPrefix(e.conn, e.prefix)
	return e, err
}

// watch has the answers that requests wait for end with the connection, and says when that
// is closed: the client does so when no server lets it in any more, and never opens it again.
func (e *engine) watch(ctx context.Context, lost, closed chan nats.Status) {
	defer e.conn.RemoveStatusListener(lost)
	defer e.conn.RemoveStatusListener(closed)
	for !e.conn.IsClosed() {
		select {
		case <-lost:
		case <-closed:
		case <-ctx.Done():
			return
		}
		e.relink()
	}
	e.trust.Lose(errors.Join(nats.ErrConnectionClosed, e.conn.LastError()))
}

func (e *engine) relink() {
	ctx, lose := context.WithCancel(context.Background())
	if old := e.link.Swap(&link{ctx, lose}); old != nil {
		old.lose()
	}
}

// close ends the connection if it is the store's own.
func (e *engine) close() {
	e.unwatch()
	e.watching.Wait()
	e.link.Load().lose()
	if e.owned {
		e.conn.Close()
	}
}

// A message is that of a subject; if the subject has none, seq is 0.
type message struct {
	seq  uint64
	data []byte
}

// maxMessage is how large the data of a message may be.
func (e *engine) maxMessage() int {
	most := min(e.conn.MaxPayload(), maxPart)
	if e.most > 0 {
		most = min(most, int64(e.most))
	}
	return max(int(most)-headroom, 1) // too small for anything, which a Put finds out
}

// last reads the message of a subject from the leader of the stream, which has
// applied all that was acknowledged.
func (e *engine) last(ctx context.Context, subject string) (m message, err error) {
	request, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return m, err
	}
	err = e.retry(ctx, func(ctx context.Context) error {
		reply, err := e.request(ctx, &nats.Msg{Subject: e.api("STREAM.MSG.GET"), Data: request})
		if err != nil {
			return err
		}
		m, err = readLast(reply.Data)
		return err
	})
	if err != nil {
		return m, fmt.Errorf("jetstream: read %s: %w", subject, err)
	}
	return m, nil
}

// request asks for something and returns the answer, or an error as soon as
// there can be none.
func (e *engine) request(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.link.Load(), func() { cancel(errLinkLost) })()
	reply, err := e.conn.RequestMsgWithContext(ctx, msg)
	if err != nil && errors.Is(context.Cause(ctx), errLinkLost) {
		return nil, errLinkLost
	}
	return reply, reopening(err)
}

// reopening says of a connection that is closed that the store needs another.
func reopening(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, store.ErrReopen) {
		return fmt.Errorf("%w: %w", store.ErrReopen, err)
	}
	return err
}

func (e *engine) api(call string) string { return e.prefix + call + "." + e.stream }

func readLast(reply []byte) (message, error) {
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq  uint64 `json:"seq"`
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply, &answer); err != nil {
		return message{}, err
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return message{}, nil
		}
		return message{}, answer.Error
	}
	return message{answer.Message.Seq, answer.Message.Data}, nil
}

// lastOfAny reads the message of a subject from any server that has the stream.
// It may be behind the leader, so a message that it doesn't have proves nothing.
func (e *engine) lastOfAny(ctx context.Context, subject string) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	reply, err := e.request(ctx, &nats.Msg{Subject: e.api("DIRECT.GET") + "." + subject})
	if err != nil {
		return message{}, err
	}
	seq, err := strconv.ParseUint(reply.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil { // a status such as 404
		return message{}, nil
	}
	return message{seq, reply.Data}, nil
}

// find reads the message of a subject that, once it is there, only changes in
// that it's no longer wanted: from any server, and from the leader if that
// doesn't have it.
func (e *engine) find(ctx context.Context, subject string) (message, error) {
	if m, err := e.lastOfAny(ctx, subject); err == nil && m.seq != 0 {
		return m, nil
	}
	return e.last(ctx, subject)
}

// A reading is the way in which the message of a subject is read.
type reading func(ctx context.Context, subject string) (message, error)

// lastEach reads the messages of several subjects, all at once.
func (e *engine) lastEach(ctx context.Context, subjects []string, read reading) ([]message, error) {
	messages, errs := make([]message, len(subjects)), make([]error, len(subjects))
	var reading sync.WaitGroup
	places := make(chan struct{}, maxReads)
	for i, subject := range subjects {
		places <- struct{}{}
		reading.Go(func() {
			defer func() { <-places }()
			messages[i], errs[i] = read(ctx, subject)
		})
	}
	reading.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return messages, nil
}

// retry tries until there is an answer, while the servers elect a leader or the
// connection is being made anew, but not for ever.
func (e *engine) retry(ctx context.Context, try func(context.Context) error) error {
	trial := e.newTrial(time.Now().Add(e.timeout))
	for attempt := 0; ; attempt++ {
		tried, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := try(tried)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case verdictOn(err) != again:
			return reopening(err)
		}
		if err := trial.over(ctx, err); err != nil {
			return err
		}
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

// pause waits for a moment of random length, so that processes don't try again at the
// same time. It is longer after more attempts.
func pause(ctx context.Context, attempt int) error {
	longest := 4 * time.Millisecond << min(attempt, 6)
	return sleep.For(ctx, rand.N(longest))
}

// An outgoing message replaces that of its subject.
type outgoing struct {
	subject string
	data    []byte
	ttl     time.Duration // 0: for ever
	checked bool          // the subject must have seq, or nothing if that is 0
	checks  string        // the subject for which that holds, if not this one
	seq     uint64
	copyOf  spec.ServerName // the hash of its origin, if this recognises copies
}

// publish stores all messages or none, and returns the sequence of the first.
// They become visible together. An error for which verdictOn says again leaves
// it open whether they were stored, and they may be yet.
//
// Usually only the last message is answered, and an answer doesn't say why the server
// refuses another. Asking lets it answer each before the next.
func (e *engine) publish(messages []outgoing, asking bool) (first uint64, err error) {
	id := e.name + nuid.Next()
	for i := range messages {
		msg, last := messages[i].msg(id, i+1), i == len(messages)-1
		if !last && !asking {
			if err := e.conn.PublishMsg(msg); err != nil {
				return 0, reopening(err)
			}
			continue
		}
		if last {
			msg.Header.Set("Nats-Batch-Commit", "1")
		}
		answer, err := e.ask(msg)
		switch {
		case err != nil:
			return 0, err
		case last && answer.Count != len(messages):
			return 0, fmt.Errorf("%d of %d messages were stored", answer.Count, len(messages))
		}
		first = answer.Seq - uint64(len(messages)) + 1
	}
	return first, nil
}

type publishAnswer struct {
	Error *jetstream.APIError `json:"error"`
	Seq   uint64              `json:"seq"`
	Count int                 `json:"count"`
}

func (e *engine) ask(msg *nats.Msg) (answer publishAnswer, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	reply, err := e.request(ctx, msg)
	if err != nil || len(reply.Data) == 0 { // a message in the middle of a batch was accepted
		return answer, err
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return answer, err
	}
	if answer.Error != nil {
		return answer, answer.Error
	}
	return answer, nil
}

func (o *outgoing) msg(batch string, n int) *nats.Msg {
	msg := &nats.Msg{Subject: o.subject, Data: o.data, Header: nats.Header{
		batchHeader:           {batch},
		"Nats-Batch-Sequence": {strconv.Itoa(n)},
	}}
	if o.ttl > 0 {
		seconds := (o.ttl + time.Second - 1) / time.Second // the unit of the server
		msg.Header.Set(jetstream.MsgTTLHeader, strconv.FormatInt(int64(seconds), 10))
	}
	if o.checked {
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(o.seq, 10))
	}
	if o.checks != "" {
		msg.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, o.checks)
	}
	return msg
}
