;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  (import "sandbar:handler/log@0.1.0" (instance $log
    (type $level0 (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $level0)))
    (type $attributes (list (tuple string string)))
    (export "write" (func (param "level" $level) (param "message" string) (param "attributes" $attributes)))))
  {{types}}
  (core module $memory (memory (export "memory") 2))
  (core instance $mem (instantiate $memory))
  (core func $write (canon lower (func $log "write") (memory (core memory $mem "memory"))))
  (core module $main
    (import "log" "write" (func $write (param i32 i32 i32 i32 i32)))
    {{memory}}
    (func (export "handle") (param i32) (result i32)
      (loop (call $write (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (br 0)) unreachable)
  )
  (core instance $m (instantiate $main (with "log" (instance (export "write" (func $write))))))
  {{guest}})
