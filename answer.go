package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"golang.org/x/time/rate"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/internal/tally"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/wire"
)

// An answer is the body of a 200, in pieces that needn't be put together.
type answer struct {
	pieces       [][]byte
	gzip         bool // they are compressed
	transactions int
	share        *share // the memory that it holds already, as much as its size, or nil
}

func (a *answer) size() (size int) {
	for _, piece := range a.pieces {
		size += len(piece)
	}
	return size
}

// answers are the last stage.
type answers struct {
	memory   memory
	metrics  *metrics
	lately   *activity.Log
	logger   *slog.Logger
	refusals *tally.Tally
	failures *rate.Limiter // for lines in the log
}

func newAnswers(m memory, lately *activity.Log, logger *slog.Logger) answers {
	return answers{
		memory: m, lately: lately, logger: logger,
		refusals: tally.New(logger, "relay: refused requests in the last minute"),
		failures: rate.NewLimiter(rate.Every(6*time.Second), 10),
	}
}

// send sends a 200. It fails, and nothing was sent, if too many large answers are
// on their way. It doesn't wait for them: the answer is in memory already.
func (s *answers) send(q *request, a answer) error {
	w, share, size := q.w, a.share, a.size()
	if share == nil {
		share = s.memory.handOut(w, q.holder())
	}
	defer share.release()
	if a.share == nil && size > firstRead && !share.set(int64(size), false) {
		return errNoMemory
	}
	q.admission.used.Sent = int64(size)
	q.admission.on.use(size / readAnswer)
	s.metrics.answered(q, http.StatusOK)
	s.metrics.handOut(a.transactions)
	if q.route.Endpoint == wire.Info {
		cacheInfo(w.Header())
	} else {
		wire.NoStore(w.Header())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	if a.gzip {
		w.Header().Set("Content-Encoding", "gzip")
	}
	for _, piece := range a.pieces {
		if _, err := w.Write(piece); err != nil {
			return nil // a caller that has gone asks again
		}
	}
	return nil
}

// refuse sends an error.
func (s *answers) refuse(w http.ResponseWriter, r *http.Request, q *request, err error) {
	e := s.wireError(r, q, err)
	reason := reasonOf(err, e)
	s.metrics.answered(q, e.Status)
	s.metrics.refused(reason)
	asked := &q.admission.asked
	s.lately.Refused(activity.Refused{
		Endpoint: nameOf(q.route.Endpoint), Reason: reason, Address: q.from.String(), Origin: asked.Origin, Destination: asked.Destination,
	})
	e.Write(w)
}

// wireError is the error for the caller. Refusals and faults of ours are logged.
func (s *answers) wireError(r *http.Request, q *request, err error) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) && e != nil && e.Status >= 400 && e.Status < 600 {
		s.count(q, e, e)
		return e
	}
	if r.Context().Err() != nil {
		return &wire.Error{Status: statusClientGone, Code: spec.ErrorUnknown, Message: "the client has gone"}
	}
	if errors.Is(err, store.ErrReopen) { // the store has said so once, and can't say anything new
		return &wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown, Message: "the store failed"}
	}
	e = &wire.Error{Status: http.StatusInternalServerError, Code: spec.ErrorUnknown, Message: "internal error"}
	if s.failures.Allow() {
		s.logger.Error("relay: a request failed", "endpoint", q.route.Endpoint, "error", err)
	} else {
		s.count(q, e, err)
	}
	return e
}

// count counts an answer other than 200. The log has the first of each kind, and then
// one line a minute.
func (s *answers) count(q *request, e *wire.Error, why error) {
	kind := fmt.Sprintf("%s %d %s", nameOf(q.route.Endpoint), e.Status, e.Code)
	s.refusals.Note(kind, q.from.String(), string(q.admission.asked.Origin), "relay: refused a request", "error", why)
}

// statusClientGone is for the metrics: nobody gets the answer.
const statusClientGone = 499
