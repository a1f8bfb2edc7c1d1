package relay

import (
	"strconv"
	"time"
)

// AnswerTime is how long it may take to send an answer that was held.
const AnswerTime = answerTime

// FirstRead is how many bytes a body gets outside of the budget.
const FirstRead = firstRead

// CheckCredit, FormCost, SlowCost and WrongFactor are the price of checks.
const (
	CheckCredit = checkCredit
	FormCost    = formCost
	SlowCost    = slowCost
	WrongFactor = wrongFactor
)

// NoGrace lets a transfer be cut off for others at once. The others wait for that as
// long as it takes on a slow machine.
func (s *Server) NoGrace() { s.setPatience(0, time.Minute) }

// LongGrace lets no transfer be cut off because the machine is slow.
func (s *Server) LongGrace() { s.setPatience(time.Hour, patience) }

func (s *Server) setPatience(grace, patience time.Duration) {
	for _, b := range []*budget{s.memory.in, s.memory.out} {
		b.grace, b.patience = grace, patience
	}
}

// Held is how many bytes of the budget bodies hold.
func (s *Server) Held() int64 {
	s.memory.in.mu.Lock()
	defer s.memory.in.mu.Unlock()
	return s.memory.in.held
}

// HeldByAnswers is how many bytes of their budget answers hold.
func (s *Server) HeldByAnswers() int64 {
	s.memory.out.mu.Lock()
	defer s.memory.out.mu.Unlock()
	return s.memory.out.held
}

// Waiting is how many requests wait for mail.
func (s *Server) Waiting() int { return s.waits.count() }

// Reasons are the values of the label of refusals, in order.
func Reasons() []string { return reasons() }

// StatusReasons are those that follow from a status.
func StatusReasons() map[string]string {
	all := make(map[string]string)
	for status, reason := range statusReasons {
		all[strconv.Itoa(status)] = reason
	}
	return all
}

// HoldAnswers takes memory for answers, until release is called.
func (s *Server) HoldAnswers(bytes int64) (release func()) {
	held := s.memory.out.share(holder{}, nil)
	held.set(bytes, false)
	return held.release
}
