package relay

// FirstRead is what a body gets outside of the budget.
const FirstRead = firstRead

// NoGrace lets a transfer be cut off for others at once.
func (s *Server) NoGrace() { s.bodies.grace, s.answers.grace = 0, 0 }

// Held is what bodies hold of the budget.
func (s *Server) Held() int64 {
	s.bodies.mu.Lock()
	defer s.bodies.mu.Unlock()
	return s.bodies.held
}

// HeldByAnswers is what answers hold of theirs.
func (s *Server) HeldByAnswers() int64 {
	s.answers.mu.Lock()
	defer s.answers.mu.Unlock()
	return s.answers.held
}

// Waiting is how many requests wait for mail.
func (s *Server) Waiting() int { return s.waits.count() }
