package relay

import "time"

// AnswerTime is what sending an answer may take that was held.
const AnswerTime = answerTime

// FirstRead is what a body gets outside of the budget.
const FirstRead = firstRead

// CheckCredit and FormCost are the price of checks.
const (
	CheckCredit = checkCredit
	FormCost    = formCost
)

// NoGrace lets a transfer be cut off for others at once, who wait for as long as
// that takes on a slow machine.
func (s *Server) NoGrace() { s.setPatience(0, time.Minute) }

// LongGrace lets no transfer be cut off because the machine is slow.
func (s *Server) LongGrace() { s.setPatience(time.Hour, patience) }

func (s *Server) setPatience(grace, patience time.Duration) {
	for _, b := range []*budget{s.memory.in, s.memory.out} {
		b.grace, b.patience = grace, patience
	}
}

// Held is what bodies hold of the budget.
func (s *Server) Held() int64 {
	s.memory.in.mu.Lock()
	defer s.memory.in.mu.Unlock()
	return s.memory.in.held
}

// HeldByAnswers is what answers hold of theirs.
func (s *Server) HeldByAnswers() int64 {
	s.memory.out.mu.Lock()
	defer s.memory.out.mu.Unlock()
	return s.memory.out.held
}

// Waiting is how many requests wait for mail.
func (s *Server) Waiting() int { return s.waits.count() }
