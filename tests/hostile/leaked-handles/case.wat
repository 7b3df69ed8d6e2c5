;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type $p (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $p))
    (export "pollable" (type $own (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $own))))))
  {{types}}
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core module $main
    (import "clock" "subscribe" (func $subscribe (param i64) (result i32)))
    {{memory}}
    (func (export "handle") (param i32) (result i32)
      (loop (drop (call $subscribe (i64.const 1))) (br 0)) unreachable)
  )
  (core instance $m (instantiate $main (with "clock" (instance (export "subscribe" (func $subscribe))))))
  {{guest}})
