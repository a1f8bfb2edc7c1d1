package client

import "sync/atomic"

// attempts counts direct attempts by their verdict.
type attempts struct{ delivered, refused, failed atomic.Int64 }

func (a *attempts) count(v Verdict) {
	switch v {
	case Delivered:
		a.delivered.Add(1)
	case Refused:
		a.refused.Add(1)
	default:
		a.failed.Add(1)
	}
}

func (a *attempts) read() Attempts {
	return Attempts{Delivered: a.delivered.Load(), Refused: a.refused.Load(), Failed: a.failed.Load()}
}
