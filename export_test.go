package relay

// FirstRead is what a body gets outside of the budget.
const FirstRead = firstRead

// NoGrace lets a transfer be cut off for others at once.
func (s *Server) NoGrace() { s.bodies.grace, s.answers.grace = 0, 0 }
