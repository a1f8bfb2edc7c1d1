package storetest

import (
	"context"
	"errors"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store"
)

func (h *handle) List(ctx context.Context, destination spec.ServerName, after int64, limit int) ([]store.Listed, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	defer h.calls.RUnlock()
	return h.now().List(ctx, destination, after, limit)
}

func (h *handle) Senders(ctx context.Context, destination spec.ServerName, limit int) ([]store.Sender, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	defer h.calls.RUnlock()
	return h.now().Senders(ctx, destination, limit)
}

func (h *handle) Recipients(ctx context.Context, origin, after spec.ServerName, limit int) ([]spec.ServerName, error) {
	if err := h.enter(); err != nil {
		return nil, err
	}
	defer h.calls.RUnlock()
	return h.now().Recipients(ctx, origin, after, limit)
}

func (h *handle) Remove(ctx context.Context, destination spec.ServerName, ids []int64) (int, error) {
	if err := h.enter(); err != nil {
		return 0, err
	}
	defer h.calls.RUnlock()
	entries, err := h.now().Next(ctx, destination, 0, plenty, plenty)
	if err != nil && !errors.Is(err, store.ErrEmpty) {
		return 0, err
	}
	h.mu.Lock()
	for _, entry := range entries {
		if slices.Contains(ids, entry.ID) {
			h.removed = append(h.removed, entry.Mail)
		}
	}
	h.mu.Unlock()
	return h.now().Remove(ctx, destination, ids)
}

// removesUpTo acknowledges entries instead.
type removesUpTo struct{ *handle }

func (s removesUpTo) Remove(ctx context.Context, to spec.ServerName, ids []int64) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	return s.Ack(ctx, to, slices.Max(ids))
}

// removesAny doesn't look whose entries those are.
type removesAny struct{ *handle }

func (s removesAny) Remove(ctx context.Context, _ spec.ServerName, ids []int64) (sum int, err error) {
	for _, to := range []spec.ServerName{here, there} {
		n, err := s.handle.Remove(ctx, to, ids)
		if err != nil {
			return sum, err
		}
		sum += n
	}
	return sum, nil
}

// mixesSenders doesn't keep private mailboxes apart.
type mixesSenders struct{ *handle }

func (s mixesSenders) Senders(ctx context.Context, destination spec.ServerName, limit int) ([]store.Sender, error) {
	var all []store.Sender
	for _, half := range halfNames {
		some, err := s.handle.Senders(ctx, half, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if destination != "" && destination != store.PrivateHalf {
		return s.handle.Senders(ctx, destination, limit)
	}
	return all, nil
}
