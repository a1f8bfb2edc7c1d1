package client

import "time"

// breaksAlike is how many answers in a row must break at the same age, while they are
// held, before answers are held for less: something on the way ends connections that
// are idle.
const breaksAlike = 2

// A holdLength is for how long a relay is asked to hold an answer.
type holdLength struct {
	wait, least time.Duration

	age    time.Duration // at which the last one broke
	breaks int           // at that age
}

// holdLength is for a relay of which nothing is known.
func (r *Receiver) holdLength() holdLength {
	return holdLength{wait: r.config.Wait, least: r.leastHeld()}
}

// broke notes that an answer failed at that age. One that failed sooner than answers
// may be held for says nothing.
func (h *holdLength) broke(age time.Duration) {
	if age < h.least {
		return
	}
	age = min(age, h.wait) // if none came, something has forgotten the connection before
	if h.breaks > 0 && (age-h.age).Abs() > h.age/10 {
		h.breaks = 0
	}
	h.age = age
	if h.breaks++; h.breaks >= breaksAlike {
		h.wait, h.breaks = max(h.least, age*3/4), 0
	}
}
