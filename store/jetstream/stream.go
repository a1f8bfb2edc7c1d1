package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Metadata of the stream, by which it is recognised as ours.
const (
	versionKey   = "relay.version"
	streamFormat = "2"
)

var (
	errForeign = errors.New("there is a stream of that name that isn't a relay's, or another version's")
	errSealed  = errors.New("the stream is sealed: nothing can be written to it or removed")
	errDeleted = errors.New("the stream was deleted")
	errOldNATS = errors.New("the server knows no atomic batches: it must be NATS 2.12 or later")
)

// openStream makes the stream if there is none, and checks that it is as it has to be.
func openStream(ctx context.Context, e *engine, o Options) (info *jetstream.StreamInfo, err error) {
	err = e.retry(ctx, func(ctx context.Context) error {
		stream, err := e.js.Stream(ctx, e.stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			stream, err = e.js.CreateStream(ctx, o.newStream(e.conn.ConnectedClusterName() != ""))
		}
		if err == nil {
			info = stream.CachedInfo()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", e.stream, err)
	}
	config := &info.Config
	if err := checkStream(config); err != nil {
		return nil, fmt.Errorf("stream %s: %w", e.stream, err)
	}
	e.most = int(max(config.MaxMsgSize, 0))
	if config.Replicas == 1 && e.conn.ConnectedClusterName() != "" {
		o.Logger.Warn("jetstream: the stream has one replica in a cluster, which may keep a part of a batch when it's killed",
			"stream", e.stream)
	}
	return info, nil
}

func checkStream(config *jetstream.StreamConfig) error {
	switch {
	case !config.AllowAtomicPublish:
		return errOldNATS
	case config.Metadata[versionKey] != streamFormat, config.MaxMsgsPerSubject != 1, !config.AllowMsgTTL, !config.AllowDirect:
		return errForeign
	case config.Sealed:
		return errSealed
	}
	return nil
}

func (o *Options) newStream(clustered bool) jetstream.StreamConfig {
	replicas := max(o.Replicas, 1)
	if o.Replicas == 0 && clustered {
		replicas = 3
	}
	return jetstream.StreamConfig{
		Name:               o.Stream,
		Description:        "mail of a Matrix relay",
		Subjects:           []string{subjects(o.Stream).all()},
		Storage:            jetstream.FileStorage,
		Replicas:           replicas,
		Discard:            jetstream.DiscardNew,
		MaxMsgsPerSubject:  1,
		MaxBytes:           max(o.MaxBytes, 0),
		AllowDirect:        true,
		AllowMsgTTL:        true,
		AllowAtomicPublish: true,
		Metadata:           map[string]string{versionKey: streamFormat},
	}
}
